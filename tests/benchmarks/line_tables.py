"""What the part `line` has seen, and its two tables: how fast, and where the time went."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from tests.benchmarks.clocked import QUESTION_SECONDS
from tests.benchmarks.line_loads import Load
from tests.benchmarks.notes import ReplicaNotes
from tests.benchmarks.report import Table
from tests.benchmarks.timing import spread

COLUMNS = ("contestant", "records", "questions", "s", "records per s", "of the model alone")
SHARES = (
    "contestant",
    "s until ready",
    "s after it",
    "% in the model",
    "% before",
    "% between",
    "% after",
    "model's ms per question",
    "of these on a processor",
    "other processor ms per record",
    "model's part of processor time",
)
NOTES = (
    "whole job: a process that runs jobs/label.py with replicas of one processor each, from a local"
    " folder into another. Its seconds go from when the replicas have loaded the model (on average)"
    " to the last commit.",
    "model alone: as many processes with one thread of torch each, which share the records evenly."
    " Their images are decoded and resized before; its seconds go from there to the last answer."
    " Reading, decoding, resizing, the statistics of masks, rows, Parquet and commits are the job's"
    " alone, and where there are no more cores than replicas they share these with the model.",
)
IDEAL_NOTE = (
    f"Ideal: questions times {QUESTION_SECONDS} s over the replicas; a step of many takes as long"
    " as all it may have, also with fewer. A sleep takes longer than it"
    " is told to, on a busy machine much longer: so the model alone isn't ideal either."
)
SHARES_NOTES = (
    "s until ready: from the start of the command until a replica had loaded the model; most of it"
    " is Ray's start and imports. s after it: all that follows, with the end of Ray and the"
    " manifest.",
    "A replica's time, from when it was ready to the last commit of the job: its model's thread is"
    " in the model, or it is before its first question, between two steps, or after its last"
    " answer.",
    "Other processor time: of the replica's process, without the model's. What the driver and Ray's"
    " own processes need is not in it. The last column is what could be reached at best where all"
    " processors are taken by replicas.",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """How long all records took once, and those who did it."""

    replicas: Sequence[ReplicaNotes]
    end: float
    """seconds since 1970, as `ReplicaNotes.ready`"""
    targets: int
    """masks that were found"""
    around: tuple[float, float] = (0.0, 0.0)
    """seconds before the replicas were ready, and after the end"""

    @property
    def seconds(self) -> float:
        """From when the replicas were ready, on average, to the end."""
        return self.end - self.ready

    @property
    def ready(self) -> float:
        """When the replicas were ready, on average."""
        return fmean(each.ready for each in self.replicas)


@dataclass(slots=True, eq=False)
class Racer:
    """One of those that are compared, and its turns."""

    name: str
    run: Callable[[], Turn]
    turns: list[Turn] = field(default_factory=list)

    def take_turn(self) -> None:
        """Runs once."""
        self.turns.append(self.run())

    @property
    def seconds(self) -> list[float]:
        """Of every turn."""
        return [turn.seconds for turn in self.turns]


def ideal_seconds(load: Load) -> float:
    """What a model that sleeps needs where it never waits."""
    questions = sum(len(asked) for _, asked in load.records())
    return questions * QUESTION_SECONDS / load.replicas


def make_table(load: Load, alone: Racer, job: Racer) -> Table:
    """Records per second, and how much that is of what could be."""
    records = load.records()
    counts = [f"{len(records):,}", f"{sum(len(asked) for _, asked in records):,}"]
    columns, notes, goals = list(COLUMNS), list(NOTES), [alone.seconds]
    if load.asleep:
        columns.append("of the ideal")
        notes.append(IDEAL_NOTE)
        goals.append([ideal_seconds(load)] * len(job.turns))

    def row(racer: Racer) -> list[str]:
        rates = [len(records) / each for each in racer.seconds]
        ratios = [
            spread([best / own for best, own in zip(goal, racer.seconds, strict=True)])
            for goal in goals
        ]
        return [racer.name, *counts, spread(racer.seconds), spread(rates), *ratios]

    rows = [row(racer) for racer in (alone, job)]
    raw = {racer.name: racer.seconds for racer in (alone, job)}
    return Table(f"The whole job: {load.name}", columns, rows, notes, raw, _check(alone, job))


def _check(alone: Racer, job: Racer) -> list[str]:
    """Masks may differ at their edges with how many questions are under way; not their number."""
    one, other = alone.turns[0].targets, job.turns[0].targets
    return [f"{one} masks alone, {other} in the job"] if abs(one - other) > 0.01 * one else []


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the time of a turn went; means over its replicas, in shares of its seconds."""

    model: float
    before: float
    between: float
    after: float

    @classmethod
    def of(cls, turn: Turn) -> "Shares":
        """The four of them are 1 together."""
        total = turn.seconds
        model = fmean(each.model_seconds for each in turn.replicas) / total
        before = fmean(each.first - each.ready for each in turn.replicas) / total
        after = fmean(turn.end - each.last for each in turn.replicas) / total
        return cls(model, before, 1 - model - before - after, after)


def make_shares(load: Load, racers: Sequence[Racer]) -> Table:
    """Where the time went."""
    rows, raw = list[list[str]](), dict[str, Sequence[float]]()
    for racer in racers:
        shares = [Shares.of(turn) for turn in racer.turns]
        around = [turn.around for turn in racer.turns]
        raw[f"{racer.name}, until ready"] = [before for before, _ in around]
        raw[f"{racer.name}, in the model"] = [each.model for each in shares]
        times = [spread([each[at] for each in around]) for at in (0, 1)]
        rows.append(
            [
                racer.name,
                *(times if any(map(sum, around)) else ["–", "–"]),
                *(
                    f"{100 * fmean(getattr(each, name) for each in shares):.1f}"
                    for name in ("model", "before", "between", "after")
                ),
                *_costs(racer, len(load.records())),
            ]
        )
    return Table(f"Where the time went: {load.name}", SHARES, rows, SHARES_NOTES, raw)


def _costs(racer: Racer, records: int) -> list[str]:
    """Milliseconds: of the model for a question, and of the rest for a record."""
    notes = [each for turn in racer.turns for each in turn.replicas]
    questions = sum(each.questions for each in notes)
    model, on_cpu, total = (
        sum(getattr(each, name) for each in notes)
        for name in ("model_seconds", "model_cpu", "all_cpu")
    )
    other = (total - on_cpu) / (records * len(racer.turns))
    return [
        f"{1000 * model / questions:.2f}",
        f"{1000 * on_cpu / questions:.2f}",
        f"{1000 * other:.2f}",
        f"{on_cpu / total:.3f}",
    ]
