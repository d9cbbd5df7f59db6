"""Two label tables -> their scores: the rows are joined, and bucket after bucket is scored.

    cut_pieces -> split_piece -> blocks of entries -> score_bucket -> sums -> `Evaluation`

`Spread` carries the steps to wherever there are processors: `in_turn` does all here, and
`workers.spread` on Ray. What travels is small: names of parts and blocks one way, sums the other.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from workers.errors import ScoringError, StorageError
from workers.labels.parts import LabelTable
from workers.scoring.bucket import Buckets, ScoredBucket, score_bucket
from workers.scoring.fitting import RawScores
from workers.scoring.join import (
    Plan,
    SplitPiece,
    count_buckets,
    cut_pieces,
    split_piece,
    unite_keys,
)
from workers.scoring.measures import Side
from workers.scoring.metrics import Scores
from workers.scoring.options import ScoringOptions
from workers.scoring.scores import score
from workers.scoring.sums import ALL, FIXED_GROUPS, Scored, ScoreSums
from workers.storage.objects import Store
from workers.storage.stores import open_store
from workers.storage.uris import shown
from workers.wording import Say, to_nobody

TENTHS = 10
"""Times that a long evaluation says how far it is."""
Item = TypeVar("Item")
Shared = TypeVar("Shared")
Result = TypeVar("Result")


class Spread(Protocol):
    """Carries work to wherever there are processors."""

    def __call__(
        self, work: Callable[[Item, Shared], Result], items: Sequence[Item], shared: Shared
    ) -> Iterator[Result]:
        """Does it on each item; the results come in the order of the items."""


def in_turn(
    work: Callable[[Item, Shared], Result], items: Sequence[Item], shared: Shared
) -> Iterator[Result]:
    """A `Spread` that does one item after the other, here."""
    return (work(item, shared) for item in items)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one table is worth beside the other."""

    sums: Mapping[str, ScoreSums]
    """by group: all questions, then by number of targets, then by kind of instruction"""
    scores: Mapping[str, Scores]
    """by group"""
    told: Mapping[str, int]
    """what was left out or missing, in words, with how often"""
    raw: RawScores
    """of the predictions; none unless a calibration is wanted"""


def evaluate_tables(
    gold: LabelTable,
    predicted: LabelTable,
    scratch: str,
    options: ScoringOptions | None = None,
    spread: Spread = in_turn,
    say: Say = to_nobody,
) -> Evaluation:
    """Scores one table against another.

    Args:
        gold: what is true.
        predicted: what is scored.
        scratch: a folder of its own that all processes reach; it is emptied in the end.
        options: how questions are scored.
        spread: carries the work.
        say: hears of each step.

    Raises:
        ScoringError: no gold row can be compared, or a judge doesn't answer.
        CommitError: a part of a table is damaged or gone.
        StorageError: a store failed.
    """
    plan = Plan(scratch, count_buckets(gold), None)
    try:
        say("reading the gold table")
        true = _split(gold, "gold", plan, spread)
        say("reading the predicted table")
        wanted = replace(plan, wanted=unite_keys(true))
        said = _split(predicted, "predicted", wanted, spread)
        say(f"scoring {plan.buckets:,} {'bucket' if plan.buckets == 1 else 'buckets'} of questions")
        blocks = tuple(block for piece in (*true, *said) for block in piece.blocks)
        task = Buckets(blocks, options or ScoringOptions())
        found = list(_counted(spread(score_bucket, range(plan.buckets), task), plan.buckets, say))
    finally:
        _sweep(open_store(scratch), scratch, say)
    told = sum((Counter(piece.told) for piece in (*true, *said)), Counter[str]())
    scored = Scored.total([Scored({}, told), *(each.scored for each in found)])
    return _conclude(scored, RawScores.total([each.raw for each in found]))


def _split(table: LabelTable, side: Side, plan: Plan, spread: Spread) -> list[SplitPiece]:
    return list(spread(split_piece, cut_pieces(table, side), plan))


def _counted(results: Iterator[ScoredBucket], total: int, say: Say) -> Iterator[ScoredBucket]:
    """Tells of each tenth part of the work, where there is much of it."""
    for number, result in enumerate(results, start=1):
        yield result
        if total >= TENTHS and number * TENTHS // total > (number - 1) * TENTHS // total:
            say(f"{number:,} of {total:,} buckets are scored")


def _conclude(scored: Scored, raw: RawScores) -> Evaluation:
    if ALL not in scored.groups:
        raise ScoringError(
            "no row of the gold table can be compared: it has no answered row with sound masks"
        )
    order = sorted(scored.groups, key=_group_order)
    sums = {group: scored.groups[group] for group in order}
    scores = {group: score(each) for group, each in sums.items()}
    return Evaluation(sums, scores, {name: n for name, n in sorted(scored.told.items()) if n}, raw)


def _group_order(group: str) -> tuple[int, str]:
    return (FIXED_GROUPS.index(group) if group in FIXED_GROUPS else len(FIXED_GROUPS)), group


def _sweep(store: Store, scratch: str, say: Say) -> None:
    """Deletes what was set aside; where that is not allowed, the scores are as good."""
    try:
        for info in list(store.list(scratch)):
            store.delete(info.uri)
    except StorageError as error:
        say(f"what was set aside under {shown(scratch)} is left there: {error}")
