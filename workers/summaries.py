"""What became of a shard and of a run, in numbers."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Self

from workers.errors import LineError
from workers.exit_codes import BROKE_OFF, ENDED_EARLY, INTERRUPTED
from workers.labels.sums import Sums

ShardKey = tuple[str, str]
"""The id of a run and that of one of its shards: runs over the same input have the same shards."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """How far the replicas of a run are, between two shards that end."""

    replicas: int = 0
    """that have loaded the model since the start"""
    records: int = 0
    """that are answered, also in shards that aren't committed yet"""
    kept: int = 0
    """replicas that have been given room since the start, ready or not: what GPUs are kept for"""


@dataclass(frozen=True, slots=True)
class ShardSummary(Sums):
    """What became of a shard of a run; small enough to travel to the driver."""

    run_id: str
    shard_id: str
    records: int = 0
    reused: int = 0
    """rows that were carried over from an earlier run"""
    at_once: float = 0.0
    """questions that its replica had under way in a step until now, on average; 0 before any"""
    error: str | None = None
    """why it is not committed"""
    ends_run: bool = False
    """the other shards would fail like this one"""
    not_begun: bool = False
    """nothing more was to be begun when its turn came"""

    @property
    def key(self) -> ShardKey:
        """Of the shard, among those of all runs."""
        return self.run_id, self.shard_id

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What became of a run, for the person who started it."""

    run_id: str
    output: str
    shards: int
    """of the plan"""
    found_committed: int
    """of these, before this start"""
    counts: Mapping[str, int]
    """rows by status: of the whole plan when it is finished, else of what this start committed"""
    errors: Mapping[str, int]
    """rows by `error_code`, likewise"""
    targets: int
    reused: int
    """rows that were carried over from earlier runs"""
    seconds: float
    pace: float
    """questions per second, from when the first replica was ready; 0 when nothing was asked"""
    at_once: float
    """questions under way in a step of the model, on average; of the replica that was heard of
    last, and 0 when there was nothing to ask"""
    failures: Mapping[str, str]
    """shards that are not committed, with the reason"""
    records: int = 0
    """that were answered since this start, in the shards that are committed"""
    asked: int = 0
    """rows that the model made, or a rejection, since this start; the others were there already"""
    replicas: int = 0
    """that have loaded the model since this start"""
    records_per_second: float = 0.0
    """of all replicas together, from when the first was ready; of all runs that share them"""
    interrupted: bool = False
    """by Ctrl-C, before the end"""
    stopped: str = ""
    """why it ended before its end, on purpose; see `workers.stopping`"""
    trouble: LineError | None = None
    """what is wrong with its output, so that it could not be begun, or not be finished"""

    @property
    def exit_code(self) -> int:
        """0 all committed, 1 some shards are not, 3 stopped on purpose, 130 by Ctrl-C."""
        if self.interrupted:
            return INTERRUPTED
        if not self.failures and self.trouble is None:
            return 0
        return ENDED_EARLY if self.stopped else BROKE_OFF

    def with_sums_of(self, parts: Iterable[Sums]) -> Self:
        """With the numbers of all that is committed, whichever start has done so."""
        counts, errors, targets = Counter[str](), Counter[str](), 0
        for each in parts:
            counts.update(each.counts)
            errors.update(each.errors)
            targets += each.targets
        return replace(self, counts=dict(counts), errors=dict(errors), targets=targets)


@dataclass(slots=True)
class Tally:
    """The sum of the summaries so far."""

    done: int = 0
    """shards that are committed"""
    records: int = 0
    targets: int = 0
    reused: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    failures: dict[ShardKey, str] = field(default_factory=dict)
    at_once: float = 0.0

    def add(self, summary: ShardSummary) -> None:
        """Counts one shard in; whoever hears of one again says it once."""
        self.at_once = summary.at_once or self.at_once
        if summary.error is not None:
            self.failures[summary.key] = summary.error
            return
        self.records += summary.records
        self.reused += summary.reused
        self.add_committed(summary)

    def add_committed(self, sums: Sums) -> None:
        """Counts the rows of one in."""
        self.done += 1
        self.counts.update(sums.counts)
        self.errors.update(sums.errors)
        self.targets += sums.targets
