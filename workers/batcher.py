"""Questions from all shards in flight -> full batches for the one thread that runs the model.

    ask(sample) ---> waiting line ---> batch ---> model thread ---> answers to whoever asked

When a batch fails as a bad sample makes it fail (`SAMPLE_ERRORS`), its samples are tried alone, and
then the questions of the one that fails again; so one poisonous image costs its own rows and nobody
else's. What can't be the fault of a sample (a lost GPU, a model that answers nothing any more)
breaks the replica: every asker, now and later, is told so by `ReplicaBroken`. Anything else is a
bug, and goes as it is to those who asked. Nobody waits for ever.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch

from pixellm.answers import Answer
from pixellm.engine.rows import Sample
from pixellm.errors import PixelLMError
from workers.errors import ReplicaBroken

LINGER_SECONDS = 0.01
"""What a batch that isn't full waits for more; a batch takes some 100 times as long to answer."""
WAITING_BATCHES = 4
"""Full batches that may wait; then askers wait before they are let in."""
BATCH_SECONDS = 2 * 60 * 60
"""A batch of a 7B model on a slow CPU takes an hour; what takes longer is a hung device."""
FAILURES_IN_A_ROW = 8
"""Questions that fail alone with none answered in between: then the model is at fault, not they."""
SAMPLE_ERRORS = (RuntimeError, ValueError, MemoryError, PixelLMError)
"""What the model raises over a bad sample, or for want of memory (torch's own is a RuntimeError).
A TypeError or a KeyError is no sample's fault: as rows of status `failed` nobody would see it."""

_log = logging.getLogger(__name__)

AnswerFunction = Callable[[Sequence[Sample]], list[tuple[Answer, ...]]]
"""`Engine.answer`: one tuple per sample, one answer per question."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A question that the model could not answer, also when it was asked alone."""

    message: str


Reply = Answer | Unanswered


@dataclass(slots=True, eq=False)
class _Request:
    """At most a batch of questions about one image."""

    sample: Sample
    future: "asyncio.Future[tuple[Reply, ...]]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def size(self) -> int:
        return len(self.sample.questions)


class Batcher:
    """Collects samples into batches. All methods belong to one event loop.

    Args:
        answer: is called in a thread of its own, one call at a time.
        batch_questions: most questions in a batch.
    """

    def __init__(self, answer: AnswerFunction, batch_questions: int) -> None:
        self._answer = answer
        self._limit = batch_questions
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._line: deque[_Request] = deque()
        self._arrived = asyncio.Event()
        self._places = asyncio.Semaphore(WAITING_BATCHES * batch_questions)
        self._runner: asyncio.Task[None] | None = None
        self._broken: ReplicaBroken | None = None
        self._failures = 0
        self._batches = self._answered = 0

    async def ask(self, sample: Sample) -> tuple[Reply, ...]:
        """Asks all questions of a sample; returns when all have their reply, in their order.

        Raises:
            ReplicaBroken: no question of anybody will be answered any more.
            Exception: a bug, as the model raised it.
        """
        requests = []
        try:
            for start in range(0, len(sample.questions), self._limit):
                part = sample.questions[start : start + self._limit]
                await self._places.acquire()
                requests.append(_Request(replace(sample, questions=part)))
                self._let_in(requests[-1])
            replies = await asyncio.gather(*(request.future for request in requests))
        finally:
            for request in requests:
                request.future.cancel()  # whoever went away is not answered
        return tuple(reply for part in replies for reply in part)

    @property
    def waiting(self) -> int:
        """Questions in the line."""
        return sum(request.size for request in self._line)

    @property
    def fill(self) -> float:
        """Share of the batches so far that was used, 0 to 1."""
        return self._answered / (self._batches * self._limit) if self._batches else 0.0

    async def close(self) -> None:
        """Ends the thread; what is asked now stays without an answer."""
        if self._runner:
            self._runner.cancel()
            with suppress(asyncio.CancelledError):
                await self._runner
        self._thread.shutdown(wait=False)

    # ---- the line ----

    def _let_in(self, request: _Request) -> None:
        self._runner = self._runner or asyncio.get_running_loop().create_task(self._run())
        self._line.append(request)
        self._arrived.set()

    async def _run(self) -> None:
        """Batch after batch, for ever: also of a broken replica, whose askers must be told."""
        while True:
            batch = await self._collect()
            try:
                await self._serve(batch)
            except ReplicaBroken as error:
                self._broken = error
                _fail(batch, error)
            except Exception as error:  # a bug: whoever asked raises it, and the job ends with it
                _fail(batch, error)

    async def _collect(self) -> list[_Request]:
        """Takes whole requests from the line while they fit; waits a little for more."""
        while not self._line:
            self._arrived.clear()
            await self._arrived.wait()
        if self.waiting < self._limit and not self._broken:
            await asyncio.sleep(LINGER_SECONDS)
        batch: list[_Request] = []
        room = self._limit
        while self._line and (self._line[0].future.done() or self._line[0].size <= room):
            request = self._line.popleft()
            self._places.release()
            if not request.future.done():
                batch.append(request)
                room -= request.size
        return batch

    # ---- the model ----

    async def _serve(self, batch: Sequence[_Request]) -> None:
        if self._broken:
            raise self._broken
        if not batch:
            return
        try:
            answers = await self._call([request.sample for request in batch])
        except SAMPLE_ERRORS as error:
            _raise_if_broken(error)
            for request in batch:
                if not request.future.done():
                    _reply(request, await self._answer_alone(request.sample))
        else:
            for request, replies in zip(batch, answers, strict=True):
                _reply(request, replies)

    async def _answer_alone(self, sample: Sample) -> tuple[Reply, ...]:
        """Answers one sample; when that fails, each of its questions."""
        try:
            (answers,) = await self._call([sample])
        except SAMPLE_ERRORS as error:
            _raise_if_broken(error)
            if len(sample.questions) == 1:
                return (self._give_up(error),)
        else:
            return answers
        replies: list[Reply] = []
        for question in sample.questions:
            replies += await self._answer_alone(replace(sample, questions=(question,)))
        return tuple(replies)

    def _give_up(self, error: Exception) -> Unanswered:
        said = f"{type(error).__name__}: {error}"
        _log.warning("a question could not be answered", exc_info=error)
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            raise ReplicaBroken(f"{self._failures} questions failed in a row, the last with {said}")
        return Unanswered(said)

    async def _call(self, samples: list[Sample]) -> list[tuple[Answer, ...]]:
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, self._answer, samples)
        try:
            answers = await asyncio.wait_for(running, BATCH_SECONDS)
        except TimeoutError:
            raise ReplicaBroken(f"a batch got no answer within {BATCH_SECONDS} seconds") from None
        asked = [len(sample.questions) for sample in samples]
        assert [len(each) for each in answers] == asked, "an answer for each question, in order"
        self._failures = 0
        self._batches += 1
        self._answered += sum(asked)
        return answers


def _reply(request: _Request, replies: tuple[Reply, ...]) -> None:
    if not request.future.done():
        request.future.set_result(replies)


def _fail(batch: Sequence[_Request], error: Exception) -> None:
    for request in batch:
        if not request.future.done():
            request.future.set_exception(error)


def _raise_if_broken(error: Exception) -> None:
    """A device error spoils the process: every later call would fail, whatever it is about."""
    if isinstance(error, ReplicaBroken):
        raise error
    if isinstance(error, torch.AcceleratorError):
        raise ReplicaBroken(f"the device failed: {error}") from error
