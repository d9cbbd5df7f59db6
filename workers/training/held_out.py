"""The rows that a run is scored by: the same ones at every evaluation.

    held-out images of --data, or --validation -> some rows, by a hash -> questions by their image

Which rows they are follows from their item ids alone. So they are not changed by rows that come
after the ones that were drawn, and by others only one by one.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import nsmallest

from workers.labels.manifests import current_commits
from workers.labels.parts import LabelTable, read_block
from workers.labels.schema import LabelRow
from workers.storage.objects import Store
from workers.training.chance import draw
from workers.training.conversations import Conversation
from workers.training.examples import (
    Example,
    PictureKey,
    Skipped,
    Split,
    find_unwanted,
    read_example,
)
from workers.training.plan import TrainPlan

LIGHT = ("item_id", "image_sha256", "status", "origin", "review")
"""Columns by which rows are chosen: a hundredth of the bytes, since masks are not among them."""

Encode = Callable[[Example], Conversation | Skipped]


@dataclass(frozen=True, slots=True)
class Gold:
    """A row that the model is asked anew."""

    row: LabelRow
    conversation: Conversation
    """the same as the model would learn it"""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a run is scored by."""

    golds: tuple[Gold, ...]
    """in the order of their hashes"""
    runs: Mapping[str, tuple[str, ...]]
    """prefix -> the runs that a table was read from: give them again to read the same, since what
    counts of a table may be another run by then"""
    skipped: Mapping[str, int]
    """rows that were drawn and can't be asked, by reason"""

    @property
    def images(self) -> tuple[tuple[Gold, ...], ...]:
        """The rows by their image."""
        groups = defaultdict[PictureKey, list[Gold]](list)
        for gold in self.golds:
            groups[gold.conversation.example.picture_key].append(gold)
        return tuple(map(tuple, groups.values()))

    @property
    def digest(self) -> str:
        """Of what is asked, and of what is right: other scores can't be compared."""
        names = "\n".join(gold.row.result_id for gold in self.golds)
        return sha256(names.encode()).hexdigest()


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """Where a row lies; sorted by its hash."""

    drawn: float
    item_id: str
    table: int
    part: int
    row: int


def choose_rows(
    plan: TrainPlan, store: Store, encode: Encode, runs: Mapping[str, Sequence[str]] | None = None
) -> HeldOut:
    """Draws the rows, and reads them. Memory: these rows, and those of the part at hand.

    Args:
        plan: of the run.
        store: of the tables.
        encode: example -> ids, or why it has none (`BatchMaker.encode`).
        runs: prefix -> the runs that a table is read from; of others, what counts now.

    Raises:
        CommitError: nothing has been committed, or a part is damaged or gone.
        StorageError: the store failed.
    """
    split = None if plan.validation else Split("held_out", plan.held_out)
    prefixes = plan.validation or tuple(each.prefix for each in plan.data)
    tables = [_open_table(store, prefix, (runs or {}).get(prefix, ())) for prefix in prefixes]
    drawn = nsmallest(plan.evaluate_rows, _find_wanted(tables, plan, split))
    places = {place.item_id: place for place in reversed(drawn)}  # a question once
    skipped, golds = Counter[str](), list[Gold]()
    for _, row in sorted(_read(tables, places.values()), key=lambda pair: pair[0]):
        example = read_example(row, plan.train_on, split)
        conversation = example if isinstance(example, Skipped) else encode(example)
        if isinstance(conversation, Skipped):
            skipped[conversation.reason] += 1
        else:
            golds.append(Gold(row, conversation))
    read_from = (tuple(dict.fromkeys(part.run_id for part in table.parts)) for table in tables)
    return HeldOut(tuple(golds), dict(zip(prefixes, read_from, strict=True)), skipped)


def _open_table(store: Store, prefix: str, runs: Sequence[str]) -> LabelTable:
    parts = [part for run in runs or (None,) for part in current_commits(store, prefix, run)]
    return LabelTable(store, prefix, parts)


def _find_wanted(
    tables: Sequence[LabelTable], plan: TrainPlan, split: Split | None
) -> Iterator[_Place]:
    """Where the rows lie that may be asked; what is wrong with their masks is not known yet."""
    for number, table in enumerate(tables):
        for part in range(len(table.parts)):
            for at, row in enumerate(table.only([part]).rows(LIGHT)):
                if find_unwanted(row, plan.train_on, split) is None:
                    drawn = draw("validation", row.item_id)
                    yield _Place(drawn, row.item_id, number, part, at)


def _read(
    tables: Sequence[LabelTable], places: Iterable[_Place]
) -> Iterator[tuple[_Place, LabelRow]]:
    """The rows, in the order of their parts."""
    by_part = defaultdict[tuple[int, int], list[_Place]](list)
    for place in places:
        by_part[place.table, place.part].append(place)
    for (number, part), some in sorted(by_part.items()):
        table, numbers = tables[number], [place.row for place in some]
        within = range(min(numbers), max(numbers) + 1)
        rows = read_block(table.store, table.output, table.parts[part], within)
        for place in some:
            yield place, rows[place.row - within.start]
