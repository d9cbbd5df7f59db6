import asyncio
import gc
import random
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext

import pytest
import torch

from pixellm.answers import Answer
from pixellm.engine.engine import Job
from pixellm.engine.rows import NO_NUMBER, Failure, Picture, Row, Sample
from pixellm.images import PreparedImage
from workers.asking import Asked, Outbox, Unanswered
from workers.errors import LineError, ReplicaBroken
from workers.model_thread import FAILURES_IN_A_ROW, ModelThread

IMAGE = PreparedImage(torch.zeros(3, 1, 1), (1, 1), (1, 1))


class EchoEngine:
    """Answers every question with its own text; fails where it is told to.

    Args:
        most: questions under way at once.
        seconds: that a step takes.
        poison: texts that no step is done with.
        large: texts that don't fit into memory.
    """

    def __init__(
        self,
        most: int = 8,
        seconds: float = 0.0,
        poison: Collection[str] = (),
        large: Collection[str] = (),
    ) -> None:
        self.most, self.seconds, self.poison, self.large = most, seconds, poison, large
        self.waiting: list[tuple[Job, Row, str]] = []
        self.steps: list[list[str]] = []
        self.threads: set[int] = set()
        self.error: Exception = RuntimeError("poisoned")
        self.failing = True
        self.why = Failure("too large", lacks_memory=True)

    @property
    def busy(self) -> bool:
        return bool(self.waiting)

    @property
    def in_step(self) -> int:
        return len(self.steps[-1]) if self.steps else 0

    def add(self, sample: Sample) -> Job:
        rows = [Row(Picture(), [], 1, n) for n in range(len(sample.questions))]
        job = Job(sample, tuple(rows))
        self.waiting += [(job, *each) for each in zip(rows, sample.questions, strict=True)]
        return job

    def step(self) -> list[Job]:
        entering, self.waiting = self.waiting[: self.most], self.waiting[self.most :]
        texts = [text for _, _, text in entering]
        self.steps.append(texts)
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        if self.failing and any(text in self.poison for text in texts):
            raise self.error
        for _, row, text in entering:
            if text in self.large:
                row.failure = self.why
            else:
                row.answer = Answer(text, (), (), False, False)
        jobs = {id(job): job for job, _, _ in entering}
        return [job for job in jobs.values() if job.done]

    def withdraw(self, job: Job) -> None:
        self.waiting = [each for each in self.waiting if each[0] is not job]

    def abandon(self) -> None:
        self.waiting = []


def sample(*questions: str) -> Sample:
    return Sample(IMAGE, questions)


def texts_of(replies: Sequence[Answer | Unanswered]) -> list[str]:
    """What was answered; `!` for what was not."""
    return ["!" if isinstance(reply, Unanswered) else reply.text for reply in replies]


def run(engine: EchoEngine, *samples: Sample, patient: bool = False) -> list[list[str]]:
    """What all askers get, asking at once."""

    async def ask_all() -> list[list[str]]:
        thread = ModelThread(engine)
        with thread.patience() if patient else nullcontext():
            replies = await asyncio.gather(*(thread.ask(each) for each in samples))
        thread.close()
        return list(map(texts_of, replies))

    return asyncio.run(asyncio.wait_for(ask_all(), 20))


def test_every_question_gets_its_own_answer_in_its_own_place():
    samples = [sample(*(f"{n}-{i}" for i in range(n % 5))) for n in range(50)]
    engine = EchoEngine()
    assert run(engine, *samples) == [list(each.questions) for each in samples]
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


def test_all_answers_of_a_step_take_one_way_to_the_event_loop(monkeypatch):
    calls: list[str] = []
    call = asyncio.BaseEventLoop.call_soon_threadsafe

    def count(loop, callback, *arguments, **more):
        if threading.current_thread().name == "model":
            calls.append(callback.__name__)
        return call(loop, callback, *arguments, **more)

    monkeypatch.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", count)
    engine = EchoEngine(most=4, seconds=0.05)
    samples = [sample(f"{n}") for n in range(9)]
    assert run(engine, *samples) == [[f"{n}"] for n in range(9)]
    assert len(calls) == len(engine.steps) < 9


def test_who_is_answered_while_others_are_sifted_does_not_wait_for_their_end():
    engine = EchoEngine(seconds=0.02, poison=["bad"])
    samples = [sample(text) for text in ("good", "bad", "fine", "well")]
    asked_then: list[int] = []

    async def ask_all() -> None:
        thread = ModelThread(engine)
        tasks = [asyncio.create_task(thread.ask(each)) for each in samples]
        for task in tasks:
            task.add_done_callback(lambda _: asked_then.append(len(engine.steps)))
        await asyncio.gather(*tasks)
        thread.close()

    asyncio.run(asyncio.wait_for(ask_all(), 20))
    assert asked_then == sorted(asked_then)
    assert asked_then[0] < len(engine.steps)


def test_answers_reach_every_event_loop_but_one_that_is_closed():
    loops = [asyncio.new_event_loop() for _ in range(3)]
    asked = [Asked(sample("a"), loop.create_future()) for loop in loops]
    outbox = Outbox()
    for each in asked:
        assert each.note(range(1), [Unanswered("why")])
        outbox.put(each, each.settle)
    loops[1].close()
    outbox.send()
    for at in (0, 2):
        assert loops[at].run_until_complete(asked[at].future) == (Unanswered("why"),)
        loops[at].close()
    assert not asked[1].future.done()


def test_nobody_waits_for_ever_where_telling_fails_once(monkeypatch):
    call, failures = asyncio.BaseEventLoop.call_soon_threadsafe, [MemoryError("no room")]

    def fail_once(loop, callback, *arguments, **more):
        if threading.current_thread().name == "model" and failures:
            raise failures.pop()
        return call(loop, callback, *arguments, **more)

    monkeypatch.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", fail_once)

    async def ask_all() -> list[object]:
        thread = ModelThread(EchoEngine(most=1, seconds=0.02))
        asking = (thread.ask(sample(text)) for text in "abc")
        return list(await asyncio.gather(*asking, return_exceptions=True))

    first, *others = asyncio.run(asyncio.wait_for(ask_all(), 20))
    assert isinstance(first, tuple), "it was answered before"
    assert all(isinstance(each, ReplicaBroken) for each in others)
    assert not failures


def test_an_answer_of_the_step_that_breaks_the_replica_is_told():
    engine = EchoEngine(most=2 * FAILURES_IN_A_ROW, large=[f"{n}" for n in range(20)])
    samples = [sample("good"), *(sample(f"{n}") for n in range(FAILURES_IN_A_ROW))]

    async def ask_all() -> list[object]:
        thread = ModelThread(engine)
        asking = (thread.ask(each) for each in samples)
        return list(await asyncio.gather(*asking, return_exceptions=True))

    first, *others = asyncio.run(asyncio.wait_for(ask_all(), 20))
    assert isinstance(first, tuple)
    assert texts_of(first) == ["good"]
    assert isinstance(others[-1], ReplicaBroken)


def test_what_is_asked_while_a_step_runs_joins_with_the_next_one():
    engine = EchoEngine(most=16, seconds=0.05)

    async def ask_in_turn() -> None:
        thread = ModelThread(engine)
        first = asyncio.create_task(thread.ask(sample("first")))
        while not engine.steps:
            await asyncio.sleep(0.001)
        await asyncio.gather(first, *(thread.ask(sample(f"{n}")) for n in range(10)))
        thread.close()

    asyncio.run(ask_in_turn())
    assert [len(step) for step in engine.steps] == [1, 10]


def test_a_sample_is_answered_when_its_last_question_is_and_not_when_all_others_are():
    engine = EchoEngine(most=2, seconds=0.02)

    async def ask() -> list[bool]:
        thread = ModelThread(engine)
        tasks = [asyncio.create_task(thread.ask(sample(*f"{n}ab"))) for n in range(4)]
        await tasks[0]
        done = [task.done() for task in tasks]
        await asyncio.gather(*tasks)
        thread.close()
        return done

    assert asyncio.run(ask()) == [True, False, False, False]


def test_the_poisoned_sample_fails_alone():
    got = run(EchoEngine(poison=["bad"]), sample("a", "b"), sample("c", "bad", "d"), sample("e"))
    assert got == [["a", "b"], ["c", "!", "d"], ["e"]]


def test_random_poison_never_costs_another_question():
    chance = random.Random(7)
    poison = {f"{n}" for n in range(0, 400, FAILURES_IN_A_ROW * 3)}
    names = [f"{n}" for n in range(400)]
    samples = []
    while names:
        size = chance.randint(1, 6)
        samples.append(sample(*names[:size]))
        names = names[size:]
    got = run(EchoEngine(poison=poison), *samples)
    for each, texts in zip(samples, got, strict=True):
        assert texts == ["!" if text in poison else text for text in each.questions]


def test_one_at_fault_among_many_is_found_in_few_steps():
    engine = EchoEngine(most=1000, poison=["bad"])
    run(engine, *(sample(f"{n}") for n in range(255)), sample("bad"))
    assert len(engine.steps) < 30


def test_after_the_one_at_fault_questions_are_answered_together_again():
    engine = EchoEngine(most=100, poison=["bad"])

    async def ask() -> None:
        thread = ModelThread(engine)
        await asyncio.gather(*(thread.ask(sample(name)) for name in ("a", "bad", "b")))
        before = len(engine.steps)
        await asyncio.gather(*(thread.ask(sample(f"{n}")) for n in range(50)))
        assert len(engine.steps) - before <= 2
        thread.close()

    asyncio.run(ask())


def test_how_many_questions_steps_have_is_averaged_over_those_that_have_any():
    class Resting(EchoEngine):
        """Brings nobody on in every other step."""

        rests = False

        def step(self) -> list[Job]:
            self.rests = not self.rests
            return [] if self.rests else super().step()

        @property
        def in_step(self) -> int:
            return 0 if self.rests else super().in_step

    async def ask(engine: EchoEngine) -> float:
        thread = ModelThread(engine)
        await thread.ask(sample(*(f"{n}" for n in range(7))))
        thread.close()
        return thread.at_once

    assert asyncio.run(ask(Resting(most=4))) == 3.5


def test_why_a_question_failed_is_told():
    async def ask(engine: EchoEngine) -> Unanswered:
        thread = ModelThread(engine)
        (reply,) = await thread.ask(sample("bad"))
        thread.close()
        return reply

    poisoned = asyncio.run(ask(EchoEngine(poison=["bad"])))
    assert poisoned == Unanswered("RuntimeError: poisoned")
    large = asyncio.run(ask(EchoEngine(large=["bad"])))
    assert large == Unanswered("too large")


def test_a_question_that_does_not_fit_into_memory_costs_its_own_row_only():
    engine = EchoEngine(large=["b"])
    assert run(engine, sample("a", "b", "c"), sample("d")) == [["a", "!", "c"], ["d"]]
    assert len(engine.steps) <= 2  # the engine has tried it alone; nothing is asked again


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("Unable to allocate 9 GiB"),
        ValueError("no such size"),
        LineError("on purpose"),
    ],
)
def test_what_a_bad_sample_raises_costs_its_own_row_only(error):
    engine = EchoEngine(poison=["bad"])
    engine.error = error
    assert run(engine, sample("a"), sample("bad", "c")) == [["a"], ["!", "c"]]


def test_what_a_bad_sample_raises_as_it_is_added_costs_its_own_row_only():
    class Strict(EchoEngine):
        def add(self, sample: Sample) -> Job:
            if "bad" in sample.questions:
                raise ValueError("too long")
            return super().add(sample)

    assert run(Strict(), sample("a"), sample("bad", "c"), sample("d")) == [["a"], ["!", "c"], ["d"]]


@pytest.mark.parametrize("error", [TypeError("a bug"), KeyError("a bug"), AssertionError("a bug")])
def test_a_bug_goes_as_it_is_to_those_who_asked_and_to_nobody_later(error):
    engine = EchoEngine(poison=["bad"])
    engine.error = error

    async def ask_all() -> list[object]:
        thread = ModelThread(engine)
        asked = [thread.ask(sample(name)) for name in ("a", "bad")]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        later = await thread.ask(sample("later"))
        thread.close()
        return [replies[1], *texts_of(later)]

    assert asyncio.run(asyncio.wait_for(ask_all(), 20)) == [error, "later"]
    assert sum("bad" in step for step in engine.steps) == 1  # nothing was tried alone


def test_a_bug_that_shows_only_when_a_sample_is_tried_alone_is_one_too():
    class Crashing(EchoEngine):
        def step(self) -> list[Job]:
            self.error = TypeError("a bug") if len(self.waiting) == 1 else RuntimeError("poisoned")
            return super().step()

    with pytest.raises(TypeError, match="a bug"):
        run(Crashing(poison=["bad"]), sample("good"), sample("bad"))


def test_a_model_that_answers_nothing_breaks_the_replica_for_all_askers():
    names = [f"{n}" for n in range(100)]
    engine = EchoEngine(most=1000, poison=names)

    async def ask_all() -> list[object]:
        thread = ModelThread(engine)
        asked = [thread.ask(sample(name)) for name in names]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(ReplicaBroken, match="poisoned"):
            await thread.ask(sample("later"))
        thread.close()
        return replies

    replies = asyncio.run(asyncio.wait_for(ask_all(), 20))
    assert sum(isinstance(reply, ReplicaBroken) for reply in replies) > 90
    assert len(engine.steps) < 5 * FAILURES_IN_A_ROW


@pytest.mark.parametrize("kind", ["poison", "large"])
@pytest.mark.parametrize("failing", [FAILURES_IN_A_ROW - 1, FAILURES_IN_A_ROW])
def test_so_many_failures_in_a_row_break_the_replica_and_one_less_does_not(failing, kind):
    names = [f"{n}" for n in range(failing)]
    engine = EchoEngine(**{kind: names})
    if failing < FAILURES_IN_A_ROW:
        assert run(engine, *map(sample, names)) == [["!"]] * failing
    else:
        with pytest.raises(
            ReplicaBroken, match=f"questions of {FAILURES_IN_A_ROW} samples in a row failed"
        ):
            run(engine, *map(sample, names))


def test_a_patient_one_believes_that_many_in_a_row_are_too_large_and_nothing_else():
    names = [f"{n}" for n in range(3 * FAILURES_IN_A_ROW)]
    samples = [*map(sample, names), sample("good")]
    assert run(EchoEngine(large=names), *samples, patient=True)[-2:] == [["!"], ["good"]]
    no_numbers = EchoEngine(large=names)
    no_numbers.why = NO_NUMBER
    for engine in (no_numbers, EchoEngine(poison=names)):
        with pytest.raises(ReplicaBroken, match="samples in a row failed"):
            run(engine, *samples, patient=True)


@pytest.mark.parametrize("kind", ["poison", "large"])
def test_one_sample_with_many_bad_questions_does_not_break_the_replica(kind):
    """An image that is too large is so for each of its questions."""
    names = [f"{n}" for n in range(3 * FAILURES_IN_A_ROW)]
    got = run(EchoEngine(**{kind: names}), sample("good"), sample(*names))
    assert got == [["good"], ["!"] * len(names)]


def test_a_device_that_fails_as_all_is_given_up_breaks_the_replica_too():
    class Dying(EchoEngine):
        def abandon(self) -> None:
            if self.waiting or self.steps:
                raise torch.AcceleratorError("illegal memory access")

    with pytest.raises(ReplicaBroken, match="the device failed"):
        run(Dying(poison=["bad"]), sample("bad"), sample("good"))


def test_an_answer_ends_the_row_of_failures():
    names = [f"{n}" for n in range(FAILURES_IN_A_ROW - 1)]
    asked = [*names, "good", *names]
    got = run(EchoEngine(most=1, poison=names), *map(sample, asked))
    assert got == [["good" if name == "good" else "!"] for name in asked]


def test_a_model_that_hangs_breaks_the_replica(monkeypatch):
    monkeypatch.setattr("workers.model_thread.STEP_SECONDS", 0.05)

    async def ask() -> None:
        thread = ModelThread(EchoEngine(seconds=0.5))
        for _ in range(2):  # who asks later is told at once
            with pytest.raises(ReplicaBroken, match=r"took more than 0\.05 s for a step"):
                await thread.ask(sample("a"))
        thread.close()

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_all_who_wait_for_a_model_that_hangs_are_told(monkeypatch):
    monkeypatch.setattr("workers.model_thread.STEP_SECONDS", 0.05)

    async def ask() -> list[object]:
        thread = ModelThread(EchoEngine(seconds=0.5))
        asking = (thread.ask(sample(name)) for name in "abc")
        told = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 20)
        thread.close()
        return told

    assert [type(each) for each in asyncio.run(ask())] == [ReplicaBroken] * 3


def test_nothing_watches_a_model_whose_answer_has_come():
    async def ask() -> list[asyncio.TimerHandle]:
        loop, thread, timers = asyncio.get_running_loop(), ModelThread(EchoEngine()), []
        call_later = loop.call_later

        def note(*arguments):
            timers.append(call_later(*arguments))
            return timers[-1]

        loop.call_later = note
        await thread.ask(sample("a"))
        loop.call_later = call_later
        await asyncio.sleep(0)
        thread.close()
        return timers

    timers = asyncio.run(ask())
    assert timers
    assert all(timer.cancelled() for timer in timers)


def test_long_answers_are_waited_for_while_step_follows_step(monkeypatch):
    monkeypatch.setattr("workers.model_thread.STEP_SECONDS", 0.1)
    engine = EchoEngine(most=1, seconds=0.02)
    names = [f"{n}" for n in range(20)]
    assert run(engine, sample(*names)) == [names]


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("out of luck"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    ],
)
def test_a_failing_device_breaks_the_replica_at_once(error):
    """Also where it is asked alone: a row of status `failed` would stay in the table."""
    engine = EchoEngine(poison=["bad"])
    engine.error = error
    with pytest.raises(ReplicaBroken, match="the device failed"):
        run(engine, sample("bad"), sample("good"))
    assert sum("bad" in step for step in engine.steps) == 1


def test_askers_that_go_away_do_no_harm():
    engine, trouble = EchoEngine(most=4, seconds=0.02), []

    async def ask_and_leave() -> list[str]:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: trouble.append(what))
        thread = ModelThread(engine)
        first = asyncio.create_task(thread.ask(sample("first")))
        while not engine.steps:
            await asyncio.sleep(0.001)
        tasks = [asyncio.create_task(thread.ask(sample(f"{n}"))) for n in range(40)]
        await asyncio.sleep(0)  # all stand in the line, while the first step runs
        leaving = tasks[::2]
        for task in leaving:
            task.cancel()
        replies = await asyncio.gather(first, *(task for task in tasks if task not in leaving))
        thread.close()
        return [text for each in replies for text in texts_of(each)]

    got = asyncio.run(asyncio.wait_for(ask_and_leave(), 20))
    assert got == ["first", *(f"{n}" for n in range(40) if n % 2)]
    asked = [text for step in engine.steps for text in step]
    assert len(asked) == 21  # who left while waiting was not answered
    assert not trouble


def test_what_was_asked_by_who_has_gone_away_leaves_the_engine():
    engine = EchoEngine(most=1, seconds=0.02)

    async def ask_and_leave() -> None:
        thread = ModelThread(engine)
        gone = asyncio.create_task(thread.ask(sample(*(f"gone-{n}" for n in range(100)))))
        while not engine.steps:
            await asyncio.sleep(0.001)
        gone.cancel()
        assert texts_of(await thread.ask(sample("stays"))) == ["stays"]
        assert not thread._in_engine
        thread.close(20)

    asyncio.run(asyncio.wait_for(ask_and_leave(), 20))
    assert sum("gone" in text for step in engine.steps for text in step) < 10


def test_who_has_gone_away_is_not_asked_again_when_others_are_sifted():
    engine = EchoEngine(most=4, seconds=0.05, poison=["bad"])

    async def ask_and_leave() -> None:
        thread = ModelThread(engine)
        gone = asyncio.create_task(thread.ask(sample("gone")))
        stays = asyncio.create_task(thread.ask(sample("bad", "good")))
        while not engine.steps:
            await asyncio.sleep(0.001)
        gone.cancel()
        assert texts_of(await stays) == ["!", "good"]
        assert texts_of(await thread.ask(sample("later"))) == ["later"]
        thread.close()

    asyncio.run(asyncio.wait_for(ask_and_leave(), 20))
    assert sum("gone" in step for step in engine.steps) == 1


def test_a_closed_thread_ends_and_tells_all_who_wait_and_who_ask_later():
    engine = EchoEngine(most=1, seconds=0.02)

    async def ask_and_close() -> ModelThread:
        thread = ModelThread(engine)
        asker = asyncio.create_task(thread.ask(sample(*map(str, range(100)))))
        while not engine.steps:
            await asyncio.sleep(0.001)
        thread.close(20)
        with pytest.raises(ReplicaBroken, match="closed"):
            await asker
        with pytest.raises(ReplicaBroken, match="closed"):
            await thread.ask(sample("late"))
        return thread

    thread = asyncio.run(asyncio.wait_for(ask_and_close(), 20))
    assert not thread._thread.is_alive()
    assert not engine.busy
    assert len(engine.steps) < 10


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_ends_the_thread_leaves_nobody_waiting(error):
    class Ending(EchoEngine):
        def step(self) -> list[Job]:
            raise error

    async def ask() -> None:
        thread = ModelThread(Ending())
        tasks = [asyncio.create_task(thread.ask(sample(f"{n}"))) for n in range(3)]
        for task in tasks:
            with pytest.raises(ReplicaBroken, match=type(error).__name__):
                await task
        with pytest.raises(ReplicaBroken, match=r"has ended with"):
            await thread.ask(sample("late"))
        thread.close(20)

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_an_engine_that_loses_a_question_leaves_nobody_waiting():
    class Losing(EchoEngine):
        def step(self) -> list[Job]:
            super().step()
            return []

    async def ask() -> None:
        thread = ModelThread(Losing())
        with pytest.raises(AssertionError, match="not with all that it was asked"):
            await thread.ask(sample("a"))
        thread.close(20)

    asyncio.run(asyncio.wait_for(ask(), 20))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_who_is_at_hand_is_told_also_where_the_thread_ends_as_it_empties_the_engine():
    class Ending(EchoEngine):
        def abandon(self) -> None:
            raise SystemExit(1)

    async def ask() -> None:
        thread = ModelThread(Ending(poison=["a"]))
        with pytest.raises(ReplicaBroken, match="SystemExit"):
            await thread.ask(sample("a"))
        thread.close(20)  # what it ended with belongs to this test

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_who_goes_away_in_the_moment_of_the_answer_does_no_harm():
    trouble = []

    async def ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: trouble.append(what))
        future = asyncio.get_running_loop().create_future()
        asked = Asked(sample("a"), future)
        asked.note([0], [Unanswered("x")])
        future.cancel()
        await asyncio.sleep(0)

    asyncio.run(ask())
    assert not trouble


def test_who_stands_behind_the_end_of_the_line_is_told():
    async def ask() -> None:
        thread = ModelThread(EchoEngine())
        thread._line.put(None)
        with pytest.raises(ReplicaBroken, match="closed"):
            await thread.ask(sample("a"))

    for _ in range(20):
        asyncio.run(asyncio.wait_for(ask(), 20))


def test_an_engine_that_cannot_be_emptied_is_broken():
    class Stuck(EchoEngine):
        def abandon(self) -> None:
            raise AttributeError("another one")

    async def ask() -> None:
        engine = Stuck(poison=["bad"])
        engine.error = KeyError("a bug")
        thread = ModelThread(engine)
        with pytest.raises(KeyError):
            await thread.ask(sample("bad"))
        with pytest.raises(ReplicaBroken, match="can't be emptied: another one"):
            await thread.ask(sample("good"))
        thread.close(20)

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_nothing_of_a_step_that_failed_is_kept():
    engine = EchoEngine(poison=["bad"])

    async def ask() -> None:
        thread = ModelThread(engine)
        await asyncio.gather(*(thread.ask(sample(text)) for text in ("bad", "good")))
        assert not thread._in_engine
        thread.close(20)

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_an_error_that_no_future_takes_is_told_too():
    class Exhausted(EchoEngine):
        def step(self) -> list[Job]:
            raise StopIteration

    async def ask() -> None:
        thread = ModelThread(Exhausted())
        with pytest.raises(RuntimeError, match="StopIteration"):
            await thread.ask(sample("a"))
        thread.close(20)

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_what_an_abandoned_step_held_is_let_go_before_all_is_asked_anew():
    """It may be what memory is wanting for."""
    old: list[int] = []
    names = ("held-a", "held-bad", "held-b")

    class Watching(EchoEngine):
        def step(self) -> list[Job]:
            own = {id(job) for job, _, _ in self.waiting}
            jobs = [each for each in gc.get_objects() if type(each) is Job]
            # other tests' jobs may still be alive, and some of those ask nothing
            ours = [job for job in jobs if set(job.sample.questions) & set(names)]
            old.append(sum(id(job) not in own for job in ours))
            # a new error each time: one that is kept would hold what it was raised over
            self.error = RuntimeError("poisoned")
            try:
                return super().step()
            finally:
                del self.error

    run(Watching(most=100, poison=["held-bad"]), *map(sample, names))
    assert len(old) > 2
    assert old[1] == 0  # the first step after the one that failed


def test_pictures_are_let_go_with_their_answers():
    class Watched:
        alive = 0

        def __init__(self) -> None:
            Watched.alive += 1

        def __del__(self) -> None:
            Watched.alive -= 1

    async def ask() -> None:
        thread = ModelThread(EchoEngine(poison=["3"]))
        for n in range(5):
            await thread.ask(Sample(Watched(), (f"{n}",)))
        gc.collect()
        assert Watched.alive <= 1
        thread.close()

    asyncio.run(ask())
