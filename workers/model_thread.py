"""Questions from all shards in flight -> the engine, in the one thread that may use it.

    ask(sample) ---> line ---> engine.add, then step after step ---> replies to whoever asked

What is asked joins what is under way with one of the engine's next steps. When a step fails as a
bad sample makes it fail (`SAMPLE_ERRORS`), all that was under way is asked anew, then in two
halves, the half that fails in two again, down to the question at fault; so one poisonous image
costs its own rows and nobody else's. What can't be the fault of a sample (a lost GPU, a model that
answers nothing any more) breaks the replica: every asker, now and later, is told so by
`ReplicaBroken`. Anything else is a bug, and goes as it is to those who asked. Nobody waits for
ever.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue

from pixellm.engine.engine import Job
from pixellm.engine.rows import Row, Sample
from pixellm.errors import PixelLMError
from workers.asking import Asked, Asking, Future, Outbox, Part, Reply, Unanswered, halve
from workers.breaks import find_break
from workers.errors import ReplicaBroken
from workers.meter import Meter, Stage

STEP_SECONDS = 2 * 60 * 60
"""A step in which many questions enter a 7B model on a slow CPU takes minutes; what takes so long
is a hung device."""
FAILURES_IN_A_ROW = 8
"""Samples with a question that fails alone, and nothing answered in between: then the model is at
fault, not they."""
SAMPLE_ERRORS = (RuntimeError, ValueError, MemoryError, PixelLMError)
"""What the model raises over a bad sample. A TypeError or a KeyError is no sample's fault: as rows
of status `failed` nobody would see it."""
CLOSED = "the model was closed"

_log = logging.getLogger(__name__)


class ModelThread:
    """Answers samples with an engine that lives in a thread of its own.

    Args:
        engine: is used by that thread alone.
        meter: hears of its steps.
    """

    def __init__(self, engine: Asking, meter: Meter | None = None) -> None:
        self._engine, self._meter = engine, meter or Meter()
        self._line: SimpleQueue[Asked | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._broken: ReplicaBroken | None = None
        self._closed: ReplicaBroken | None = None  # the thread reads no more, or soon
        self._patient = 0
        self._beat = 0.0
        self._steps = self._advanced = 0
        # the model thread's own: who was taken out of the line and not told yet, and those of them
        # that are in the engine
        self._at_hand: dict[Asked, None] = {}
        self._in_engine: dict[Job, Asked] = {}
        self._failing: dict[Asked, None] = {}  # since the last answer
        self._outbox = Outbox()

    async def ask(self, sample: Sample) -> tuple[Reply, ...]:
        """Asks all questions of a sample; returns when all have their reply, in their order.

        Raises:
            ReplicaBroken: no question of anybody will be answered any more.
            Exception: a bug, as the model raised it.
        """
        if not sample.questions:
            return ()
        asked = Asked(sample, asyncio.get_running_loop().create_future())
        self._check_open()
        self._start()
        self._line.put(asked)
        self._check_open()  # else it may have been put behind the last that is read
        self._watch(asked.future)
        return await asked.future  # whoever goes away cancels it, and is not answered

    @property
    def at_once(self) -> float:
        """Questions under way in a step of the engine, on average."""
        return self._advanced / max(1, self._steps)

    @contextmanager
    def patience(self) -> Iterator[None]:
        """While it lasts, many samples in a row may be too large for the memory.

        Otherwise this replica is thought to be at fault.
        """
        self._patient += 1
        try:
            yield
        finally:
            self._patient -= 1

    def close(self, seconds: float = 0.0) -> None:
        """Ends the thread after its step; whoever waits is told that no answer comes any more.

        Args:
            seconds: that are waited for its end.
        """
        self._closed = self._closed or ReplicaBroken(CLOSED)
        self._line.put(None)
        if self._thread is not None:
            self._thread.join(seconds)

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="model", daemon=True)
            self._thread.start()

    def _watch(self, future: Future) -> None:
        """Has an eye on the model while somebody waits for it."""
        timer = future.get_loop().call_later(STEP_SECONDS, self._check_pulse, future)
        future.add_done_callback(lambda _: timer.cancel())

    def _check_pulse(self, future: Future) -> None:
        if future.done():
            return
        if time.monotonic() - self._beat <= STEP_SECONDS:
            self._watch(future)
            return
        self._broken = ReplicaBroken(f"the model took more than {STEP_SECONDS} s for a step")
        future.set_exception(self._broken)

    # ---- in the model's thread ----

    def _work(self) -> None:
        """Step after step, for ever: also of a broken replica, whose askers must be told."""
        try:
            while self._take_in():
                try:
                    self._go_on()
                except Exception as error:
                    broken = find_break(error)
                    self._broken = broken or self._broken
                    # else a bug: whoever asked raises it, and the job ends with it
                    self._give_back(broken or error)
                self._outbox.send()
        except BaseException as error:  # SystemExit, say: nobody would hear of it from a thread
            why = f"the model's thread has ended with {type(error).__name__}: {error}"
            self._closed = ReplicaBroken(why)
        self._closed = self._closed or ReplicaBroken(CLOSED)
        self._end(self._closed)

    def _end(self, why: ReplicaBroken) -> None:
        """Nobody is left waiting."""
        while not self._line.empty():
            if asked := self._line.get():
                self._at_hand[asked] = None
        try:
            self._give_back(why)
        finally:
            self._outbox.send()

    def _take_in(self) -> bool:
        """Takes what has come out of the line, and waits for it when there is nothing else to do.

        Returns:
            False when the thread is to end.
        """
        with suppress(Empty):
            while True:
                asked = self._line.get(block=not self._at_hand)
                if asked is None:
                    return False
                if not asked.gone:
                    self._at_hand[asked] = None
        return True

    def _go_on(self) -> None:
        """One step; who is done with it is told."""
        if self._broken:
            raise self._broken
        self._let_go()
        if not self._at_hand:
            return
        try:
            self._hand_in()
            done = self._step()
        except SAMPLE_ERRORS as error:
            if find_break(error):
                raise
            done = None
        # out here the error doesn't hold the tensors of what failed any more
        if done is None:
            self._sift()
        for job in done or ():
            asked = self._in_engine.pop(job)
            self._reply(asked.whole(), job)

    def _let_go(self) -> None:
        """Whoever went away is not answered: what was asked leaves the engine."""
        for asked in [each for each in self._at_hand if each.gone]:
            del self._at_hand[asked]
            if asked.job is not None:
                del self._in_engine[asked.job]
                self._engine.withdraw(asked.job)

    def _hand_in(self) -> None:
        for asked in self._at_hand:
            if asked.job is None:
                asked.job = self._engine.add(asked.sample)
                self._in_engine[asked.job] = asked

    def _step(self) -> list[Job]:
        self._outbox.send()  # of the step before, where many follow one another
        self._beat = time.monotonic()
        with self._meter.timing(Stage.MODEL):
            done = self._engine.step()
        if not (done or self._engine.busy):
            raise AssertionError("the model is done, but not with all that it was asked")
        asked = sum(len(each.sample.questions) for each in self._at_hand)
        in_step = self._engine.in_step
        self._steps, self._advanced = self._steps + (in_step > 0), self._advanced + in_step
        self._meter.stepped(in_step, max(0, asked - in_step))
        return done

    def _sift(self) -> None:
        """Asks all that is at hand anew, until whoever is at fault has failed alone."""
        self._empty_engine()
        self._answer([each.whole() for each in self._at_hand if not each.gone])
        self._at_hand.clear()

    def _answer(self, parts: Sequence[Part]) -> None:
        """Answers parts together; where that fails, one half after the other."""
        why = self._answer_together(parts)
        if why is None:
            return
        halves = halve(parts)
        for half in halves:
            self._answer(half)
        if not halves:
            (part,) = parts
            self._note(part, [self._give_up(part.asked, why)])

    def _answer_together(self, parts: Sequence[Part]) -> str | None:
        """Answers parts; or tells why not."""
        try:
            jobs = [self._engine.add(part.sample) for part in parts]
            while self._engine.busy:
                self._step()
        except SAMPLE_ERRORS as error:
            if find_break(error):
                raise
            _log.warning("%d samples can't be answered together", len(parts), exc_info=error)
            self._engine.abandon()
            return f"{type(error).__name__}: {error}"
        for part, job in zip(parts, jobs, strict=True):
            self._reply(part, job)
        return None

    # ---- replies ----

    def _reply(self, part: Part, job: Job) -> None:
        self._note(part, [self._reply_of(part.asked, row) for row in job.rows])

    def _reply_of(self, asked: Asked, row: Row) -> Reply:
        if row.answer is not None:
            self._failing.clear()
            return row.answer
        assert row.failure is not None, "it is settled"
        if self._patient and row.failure.lacks_memory:
            return Unanswered(row.failure.message)
        return self._give_up(asked, row.failure.message)

    def _give_up(self, asked: Asked, why: str) -> Unanswered:
        self._failing[asked] = None
        if len(self._failing) >= FAILURES_IN_A_ROW:
            count = len(self._failing)
            raise ReplicaBroken(
                f"questions of {count} samples in a row failed, the last with {why}"
            )
        return Unanswered(why)

    def _note(self, part: Part, replies: Sequence[Reply]) -> None:
        if part.asked.note(part.places, replies):
            self._at_hand.pop(part.asked, None)
            self._outbox.put(part.asked, part.asked.settle)

    def _give_back(self, error: Exception) -> None:
        """Tells all at hand that they get no answer."""
        for asked in self._at_hand:  # first: whatever comes of the engine, they are told
            self._outbox.put(asked, partial(asked.fail, error))
        try:
            self._empty_engine()
        except Exception as failed:  # a broken device; or a bug, after which nothing is certain
            self._broken = self._broken or ReplicaBroken(f"the model can't be emptied: {failed}")
        self._at_hand.clear()

    def _empty_engine(self) -> None:
        self._in_engine.clear()
        for asked in self._at_hand:
            asked.job = None  # and what it holds of the device's memory
        self._engine.abandon()
