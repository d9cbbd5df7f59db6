"""The part `engine`: questions answered by our engine, and by others from the same weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np

from pixellm.answers import Answer
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from tests.benchmarks.agreement import Agreement, compare
from tests.benchmarks.baselines import (
    Said,
    answer_cached,
    answer_encoded_once,
    answer_officially,
)
from tests.benchmarks.inputs import TOYS, WORKLOADS, Workload
from tests.benchmarks.options import OptionError, Options
from tests.benchmarks.padded import BATCH, Padded
from tests.benchmarks.report import Table
from tests.benchmarks.speech import Speaker
from tests.benchmarks.timing import Contestant, race, say, spread, times_slower

COLUMNS = (
    "instructions per image",
    "contestant",
    "questions",
    "ids per answer",
    "s per question",
    "questions per s",
    "times ours",
    "says the same",
)
NOTES = (
    "Same weights, same prepared images and questions, fp32, torch's own number of threads. Numbers"
    " are medians (least–most) of the repetitions; ratios are taken within a repetition.",
    "official: no cache, one question at a time; every new id runs CLIP, all projectors and the"
    " language model over prompt, image and answer again, the output layer on all positions; CLIP"
    " once more for the pixel decoder.",
    "encoded once: as official, but the image is encoded once per question. Where these two are so"
    " slow, one turn a repetition stands in all rows: what they cost does not depend on the number"
    " of instructions per image, and the questions are the same.",
    "cached: keys and values kept (DynamicCache), the image encoded once per sample, one question"
    " at a time, the output layer at the last position.",
    f"padded: transformers' generate on batches of {BATCH} questions (toys: fewer) padded on the"
    " left, the image encoded once per sample, the masks of a batch decoded together.",
    "given ids: a random model would say nothing sensible, so each question has its answer written"
    " down, for all contestants: its ids can't differ, its masks can.",
    "Ours, cached and padded have done all of their questions once before the first turn.",
    "Slow contestants answer fewer of the same questions: those in a row whose answers are most"
    " nearly like all in length. Ours also finds phrases, scores and run lengths; the others stop"
    " at the pixels.",
)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A contestant, and which of our answers its own must equal."""

    contestant: Contestant[Any]
    ours: Contestant[Any]
    first: int
    """our answer that its first one must equal"""
    given: bool = False
    """whether everybody's ids are given, so that only masks can differ"""

    def check(self) -> Agreement:
        """Compares the answers of the first turns."""
        own = self.contestant.result
        assert own is not None, "it had a turn"
        said = said_of(self.ours)[self.first : self.first + len(own)]
        return compare(said, own, given=self.given)


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """All that is compared at one number of instructions per image."""

    instructions: int
    ours: Contestant[Any]
    entries: Sequence[Entry]


def run(options: Options) -> Iterator[Table]:
    """A table for each workload."""
    for workload in choose_workloads(options):
        yield measure(workload, options.repetitions)


def choose_workloads(options: Options) -> Iterator[Workload]:
    """Those of --models, each made when its turn comes.

    Raises:
        OptionError: a name that isn't known.
    """
    known = TOYS if options.toy else WORKLOADS
    for name in options.models or known:
        if name not in known:
            raise OptionError(f"--models {name}: known are {', '.join(known)}")
        yield known[name](options.questions)


def measure(workload: Workload, repetitions: int) -> Table:
    """Lets all contestants of a workload take turns."""
    rounds = set_up(workload)
    contestants = {
        id(each): each
        for round_ in rounds
        for each in (round_.ours, *(entry.contestant for entry in round_.entries))
    }
    race(list(contestants.values()), repetitions)
    return make_table(workload.title, rounds)


def set_up(workload: Workload) -> list[Round]:
    """All contestants; those that are quick have done their work once before, untimed."""
    speaker, shares = workload.speaker, workload.shares
    engine = make_engine(workload)
    padded = Padded(speaker, shares.batch)
    say(f"{workload.title}: warming up, and finding out how long our answers are")
    rounds, alone = list[Round](), list[Entry]()
    for instructions, samples in workload.rounds.items():
        lengths = [len(each.token_ids) for own in engine.answer(samples) for each in own]
        name = f"ours, {instructions} per image"
        ours = Contestant(name, len(lengths), partial(engine.answer, samples))
        enter = Entrance(speaker, ours, instructions, samples, lengths)
        if not (alone and shares.once):
            alone = [
                enter("official", answer_officially, shares.official),
                enter("encoded once", answer_encoded_once, shares.official),
            ]
        cached = enter("cached", answer_cached, shares.cached)
        batches = enter("padded", padded_of(padded), shares.padded)
        for entry in (cached, batches):
            entry.contestant.run()
        rounds.append(Round(instructions, ours, [*alone, cached, batches]))
    return rounds


def make_engine(workload: Workload) -> Engine:
    """Ours; where answers are given, it says those."""
    speaker = workload.speaker
    predict = None if speaker.speech.scripts is None else speaker.speech
    return Engine(speaker.checkpoint, speaker.settings, predict=predict)


Answering = Callable[[Speaker, Sequence[Sample]], list[Said]]


def padded_of(padded: Padded) -> Answering:
    """In the form of the other baselines."""
    return lambda _, samples: padded.answer(samples)


@dataclass(frozen=True, slots=True, eq=False)
class Entrance:
    """Makes entries of one round."""

    speaker: Speaker
    ours: Contestant[Any]
    instructions: int
    samples: Sequence[Sample]
    lengths: Sequence[int]
    """ids of each of our answers"""

    def __call__(self, name: str, answer: Answering, questions: int) -> Entry:
        """A contestant that answers so many questions, or as few more as whole samples have."""
        count = min(-(-questions // self.instructions), len(self.samples))
        start = typical_start(self.lengths, self.instructions, count)
        own = self.samples[start : start + count]
        contestant = Contestant(
            f"{name}, {self.instructions} per image",
            count * self.instructions,
            partial(answer, self.speaker, own),
        )
        given = self.speaker.speech.scripts is not None
        return Entry(contestant, self.ours, start * self.instructions, given)


def typical_start(lengths: Sequence[int], instructions: int, count: int) -> int:
    """The first of `count` samples in a row whose answers are most nearly like all in length.

    Args:
        lengths: of all answers, in ids.
        instructions: answers of a sample.
        count: samples wanted.
    """
    off = np.zeros(len(lengths) // instructions - count + 1)
    for power in (1, 2):  # long answers cost more than in proportion: their spread counts, too
        each = (np.reshape(lengths, (-1, instructions)).astype(float) ** power).mean(1)
        means = np.convolve(each, np.full(count, 1 / count), "valid")
        off += np.abs(means / each.mean() - 1)
    return int(off.argmin())


def said_of(ours: Contestant[Any]) -> list[Said]:
    """The engine's answers as the others give theirs."""
    answers: list[tuple[Answer, ...]] = ours.result or []
    return [
        Said(answer.token_ids, np.array([target.mask for target in answer.targets], dtype=bool))
        for own in answers
        for answer in own
    ]


# ---- the table ----


def make_table(title: str, rounds: Sequence[Round]) -> Table:
    """What came out."""
    rows, raw, failures = list[list[str]](), dict[str, Sequence[float]](), list[str]()
    checks = {id(entry): entry.check() for round_ in rounds for entry in round_.entries}
    for round_ in rounds:
        own = round_.ours
        rows.append([str(round_.instructions), *_times(own, mean_length(said_of(own))), "1", "–"])
        raw[own.name] = own.seconds
        for entry in round_.entries:
            other, check = entry.contestant, checks[id(entry)]
            times = _times(other, mean_length(other.result or []))
            ratio = spread(times_slower(other, own))
            rows.append([str(round_.instructions), *times, ratio, str(check)])
            raw[other.name] = other.seconds
            if not check.holds:
                failures.append(f"{other.name}: {check}")
    return Table(
        f"Questions answered: {title}", COLUMNS, rows, NOTES, raw, list(dict.fromkeys(failures))
    )


def mean_length(said: Sequence[Said]) -> float:
    """Ids of an answer, on average."""
    return fmean(len(each.ids) for each in said)


def _times(contestant: Contestant[Any], length: float) -> list[str]:
    name = contestant.name.partition(",")[0]
    rates = [1 / seconds for seconds in contestant.each]
    return [name, str(contestant.work), f"{length:.1f}", spread(contestant.each), spread(rates)]
