import asyncio
import gc
import random
import threading
import time
from collections.abc import Sequence

import pytest
import torch

from pixellm.answers import Answer
from pixellm.engine.rows import Sample
from pixellm.images import PreparedImage
from workers.batcher import FAILURES_IN_A_ROW, WAITING_BATCHES, Batcher, Unanswered
from workers.errors import LineError, ReplicaBroken

IMAGE = PreparedImage(torch.zeros(3, 1, 1), (1, 1), (1, 1))


class EchoModel:
    """Answers every question with its own text; fails where it is told to."""

    def __init__(self, seconds: float = 0.0, poison: Sequence[str] = ()) -> None:
        self.seconds = seconds
        self.poison = poison
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()
        self.error: Exception = RuntimeError("poisoned")

    def __call__(self, samples: Sequence[Sample]) -> list[tuple[Answer, ...]]:
        texts = [text for sample in samples for text in sample.questions]
        self.batches.append(texts)
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        if any(text in self.poison for text in texts):
            raise self.error
        return [tuple(Answer(t, (), (), False, False) for t in s.questions) for s in samples]


def sample(*questions: str) -> Sample:
    return Sample(IMAGE, questions)


def run(model: EchoModel, limit: int, *samples: Sample) -> list[list[str]]:
    """What all askers get, asking at once: texts, and `!` for what was not answered."""

    async def ask_all() -> list[list[str]]:
        batcher = Batcher(model, limit)
        replies = await asyncio.gather(*(batcher.ask(each) for each in samples))
        await batcher.close()
        return [["!" if isinstance(r, Unanswered) else r.text for r in each] for each in replies]

    return asyncio.run(asyncio.wait_for(ask_all(), 20))


def test_every_question_gets_its_own_answer_in_its_own_place():
    samples = [sample(*(f"{n}-{i}" for i in range(n % 5))) for n in range(50)]
    model = EchoModel()
    assert run(model, 8, *samples) == [list(each.questions) for each in samples]
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads


def test_no_batch_is_larger_than_the_limit_and_the_line_fills_them():
    model = EchoModel()
    run(model, 4, *(sample(f"{n}") for n in range(40)))
    assert [len(batch) for batch in model.batches] == [4] * 10


def test_a_sample_with_more_questions_than_a_batch_holds_is_split():
    model = EchoModel()
    (texts,) = run(model, 4, sample(*map(str, range(10))))
    assert texts == [str(n) for n in range(10)]
    assert [len(batch) for batch in model.batches] == [4, 4, 2]


def test_questions_that_come_while_the_model_is_busy_make_one_batch():
    model = EchoModel(seconds=0.05)

    async def ask_in_turn() -> None:
        batcher = Batcher(model, 16)
        first = asyncio.create_task(batcher.ask(sample("first")))
        while not model.batches:
            await asyncio.sleep(0.001)
        await asyncio.gather(first, *(batcher.ask(sample(f"{n}")) for n in range(10)))
        await batcher.close()

    asyncio.run(ask_in_turn())
    assert [len(batch) for batch in model.batches] == [1, 10]


def test_the_poisoned_sample_fails_alone():
    model = EchoModel(poison=["bad"])
    got = run(model, 8, sample("a", "b"), sample("c", "bad", "d"), sample("e"))
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
    got = run(EchoModel(poison=sorted(poison)), 16, *samples)
    for each, texts in zip(samples, got, strict=True):
        assert texts == ["!" if text in poison else text for text in each.questions]


def test_why_a_question_failed_is_told():
    async def ask() -> Unanswered:
        batcher = Batcher(EchoModel(poison=["bad"]), 2)
        (reply,) = await batcher.ask(sample("bad"))
        await batcher.close()
        return reply

    assert asyncio.run(ask()) == Unanswered("RuntimeError: poisoned")


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
    model = EchoModel(poison=["bad"])
    model.error = error
    assert run(model, 8, sample("a"), sample("bad", "c")) == [["a"], ["!", "c"]]


@pytest.mark.parametrize("error", [TypeError("a bug"), KeyError("a bug"), AssertionError("a bug")])
def test_a_bug_goes_as_it_is_to_those_who_asked_and_nobody_else(error):
    model = EchoModel(seconds=0.02, poison=["bad"])
    model.error = error

    async def ask_all() -> list[object]:
        batcher = Batcher(model, 2)
        asked = [batcher.ask(sample(name)) for name in ("a", "bad", "c", "d")]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        later = await batcher.ask(sample("later"))
        await batcher.close()
        return [*replies, later]

    first, second, *others = asyncio.run(asyncio.wait_for(ask_all(), 20))
    assert first is second is error
    assert [each[0].text for each in others] == ["c", "d", "later"]
    assert model.batches == [["a", "bad"], ["c", "d"], ["later"]]  # nothing was tried alone


def test_a_bug_that_shows_only_when_a_sample_is_tried_alone_is_one_too():
    class Crashing(EchoModel):
        def __call__(self, samples: Sequence[Sample]) -> list[tuple[Answer, ...]]:
            self.error = TypeError("a bug") if len(samples) == 1 else RuntimeError("poisoned")
            return super().__call__(samples)

    with pytest.raises(TypeError, match="a bug"):
        run(Crashing(poison=["bad"]), 8, sample("bad"), sample("good"))


def test_a_model_that_answers_nothing_breaks_the_replica_for_all_askers():
    names = [f"{n}" for n in range(100)]
    model = EchoModel(poison=names)

    async def ask_all() -> list[object]:
        batcher = Batcher(model, 4)
        asked = [batcher.ask(sample(name)) for name in names]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(ReplicaBroken, match="poisoned"):
            await batcher.ask(sample("later"))
        await batcher.close()
        return replies

    replies = asyncio.run(asyncio.wait_for(ask_all(), 20))
    assert sum(isinstance(reply, ReplicaBroken) for reply in replies) > 90
    assert len(model.batches) < 3 * FAILURES_IN_A_ROW


@pytest.mark.parametrize("failing", [FAILURES_IN_A_ROW - 1, FAILURES_IN_A_ROW])
def test_so_many_failures_in_a_row_break_the_replica_and_one_less_does_not(failing):
    names = [f"{n}" for n in range(failing)]
    model = EchoModel(poison=names)
    if failing < FAILURES_IN_A_ROW:
        assert run(model, 1, *map(sample, names)) == [["!"]] * failing
    else:
        with pytest.raises(ReplicaBroken, match=f"{FAILURES_IN_A_ROW} questions failed in a row"):
            run(model, 1, *map(sample, names))


def test_an_answer_ends_the_row_of_failures():
    names = [f"{n}" for n in range(FAILURES_IN_A_ROW - 1)]
    asked = [*names, "good", *names]
    got = run(EchoModel(poison=names), 1, *map(sample, asked))
    assert got == [["good" if name == "good" else "!"] for name in asked]


def test_a_model_that_hangs_breaks_the_replica(monkeypatch):
    monkeypatch.setattr("workers.batcher.BATCH_SECONDS", 0.05)
    with pytest.raises(ReplicaBroken, match=r"a batch got no answer within 0\.05 seconds"):
        run(EchoModel(seconds=0.3), 4, sample("a"))


def test_a_batch_that_is_not_full_lingers_for_what_comes_a_moment_later(monkeypatch):
    monkeypatch.setattr("workers.batcher.LINGER_SECONDS", 0.2)
    model = EchoModel()

    async def ask_in_turn() -> None:
        asked = Batcher(model, 4)
        first = asyncio.create_task(asked.ask(sample("a")))
        await asyncio.sleep(0.02)
        await asyncio.gather(first, asked.ask(sample("b")))
        await asked.close()

    asyncio.run(asyncio.wait_for(ask_in_turn(), 20))
    assert model.batches == [["a", "b"]]


def test_a_failing_device_breaks_the_replica_at_once():
    model = EchoModel(poison=["bad"])
    model.error = torch.AcceleratorError("illegal memory access")
    with pytest.raises(ReplicaBroken, match="the device failed"):
        run(model, 4, sample("bad"), sample("good"))
    assert len(model.batches) == 1


@pytest.mark.parametrize("answers", [[], [()]])
def test_answers_that_miss_a_sample_or_a_question_are_a_bug_and_nobody_hangs(answers):
    async def ask() -> None:
        batcher = Batcher(lambda samples: answers, 4)
        await batcher.ask(sample("a"))

    with pytest.raises(AssertionError, match="an answer for each question"):
        asyncio.run(asyncio.wait_for(ask(), 20))


def test_askers_that_go_away_do_no_harm():
    model = EchoModel(seconds=0.02)

    async def ask_and_leave() -> list[str]:
        batcher = Batcher(model, 4)
        tasks = [asyncio.create_task(batcher.ask(sample(f"{n}"))) for n in range(40)]
        while len(model.batches) < 2:
            await asyncio.sleep(0.001)
        leaving = tasks[4::2]
        for task in leaving:
            task.cancel()
        staying = [task for task in tasks if task not in leaving]
        replies = await asyncio.gather(*staying)
        assert batcher.waiting == 0
        await batcher.close()
        return [reply.text for each in replies for reply in each]

    got = asyncio.run(asyncio.wait_for(ask_and_leave(), 20))
    assert got == [f"{n}" for n in range(40) if n < 4 or n % 2]
    asked = [text for batch in model.batches for text in batch]
    assert len(asked) < 35  # who left while waiting was not answered


def test_an_asker_that_goes_away_while_it_waits_to_be_let_in_leaves_nothing_behind():
    model = EchoModel(seconds=0.05)

    async def ask_and_leave() -> None:
        batcher = Batcher(model, 1)
        asker = asyncio.create_task(batcher.ask(sample(*map(str, range(50)))))
        while not model.batches:
            await asyncio.sleep(0.001)
        asker.cancel()
        await batcher.ask(sample("later"))
        await batcher.close()

    asyncio.run(asyncio.wait_for(ask_and_leave(), 20))
    assert model.batches == [["0"], ["later"]]


def test_the_line_is_bounded():
    model = EchoModel(seconds=0.01)

    async def flood() -> int:
        batcher = Batcher(model, 2)
        asked = [asyncio.create_task(batcher.ask(sample(f"{n}"))) for n in range(200)]
        longest = 0
        while not all(task.done() for task in asked):
            longest = max(longest, batcher.waiting)
            await asyncio.sleep(0.001)
        await batcher.close()
        return longest

    assert asyncio.run(asyncio.wait_for(flood(), 20)) == WAITING_BATCHES * 2


def test_it_tells_how_full_the_batches_were():
    async def ask() -> None:
        batcher = Batcher(EchoModel(), 4)
        assert batcher.fill == 0
        await asyncio.gather(*(batcher.ask(sample(f"{n}")) for n in range(6)))
        assert batcher.fill == 0.75
        await batcher.close()

    asyncio.run(ask())


def test_pictures_are_let_go_with_their_answers():
    class Watched:
        alive = 0

        def __init__(self) -> None:
            Watched.alive += 1

        def __del__(self) -> None:
            Watched.alive -= 1

    async def ask() -> None:
        batcher = Batcher(EchoModel(), 4)
        for n in range(5):
            await batcher.ask(Sample(Watched(), (f"{n}",)))
        gc.collect()
        assert Watched.alive <= 1
        await batcher.close()

    asyncio.run(ask())
