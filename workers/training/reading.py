"""Reading a label table to learn from: shuffled, endless, and from any place on.

Rows come by epoch after epoch, each once an epoch, in an order that follows from seed and epoch. A
position says how many have come by; whoever reads on from there sees what comes next, and only the
window that it lies in is read for it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

from workers.errors import SettingsError
from workers.labels.commits import Commit
from workers.labels.manifests import current_commits
from workers.labels.parts import read_block
from workers.labels.schema import LabelRow
from workers.storage.objects import Store
from workers.storage.uris import shown
from workers.training.chance import shuffle
from workers.training.examples import (
    COLUMNS,
    Example,
    Skipped,
    Split,
    TrainOn,
    read_example,
)
from workers.training.windows import Block, Window, cut_blocks, plan_epoch

WINDOW_ROWS = 4096
"""Rows in memory: some 20 MB, since one with four masks of a photo has 5 KB (measured)."""
READERS = 8
"""Blocks under way at once: a block costs a store three requests, of 30 ms each."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a table has been read."""

    epoch: int = 0
    taken: int = 0
    """rows of the epoch that have come by, those that were passed over among them"""


class ExampleStream:
    """One data set: what counts of a label table now, or what some of its runs have committed.

    Memory: a window, and some 1 KB for each part. What is committed later is not seen.

    Args:
        store: of the label table.
        prefix: the table: the --output of jobs/label.py.
        seed: of the order.
        window_rows: rows that are in memory, and shuffled, together.
        train_on: which rows count.
        split: which images count; None for all.
        runs: ids of the runs to read, one after the other; without any, what counts now.

    Raises:
        SettingsError: there is no row.
        CommitError: nothing has been committed, or several runs and none of them finished.
        StorageError: the store failed.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        seed: int,
        window_rows: int = WINDOW_ROWS,
        train_on: TrainOn | None = None,
        split: Split | None = None,
        runs: Sequence[str] = (),
    ) -> None:
        self.prefix = prefix
        self._store, self._seed, self._window_rows = store, seed, window_rows
        self._train_on, self._split = train_on or TrainOn(), split
        self._commits: list[Commit] = [
            commit for run in runs or (None,) for commit in current_commits(store, prefix, run)
        ]
        self._blocks = cut_blocks(self._commits)
        self.rows = sum(len(block.rows) for block in self._blocks)
        """of an epoch, those that will be passed over among them"""
        if not self.rows:
            raise SettingsError(f"{shown(prefix)} has no row to learn from: its table is empty")

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs that are read, for whoever wants to read the same again later."""
        return tuple(dict.fromkeys(commit.run_id for commit in self._commits))

    @property
    def digest(self) -> str:
        """Of all that decides which example comes when; a position means nothing elsewhere."""
        digest = sha256(repr((self._seed, self._window_rows)).encode())
        digest.update(repr((self._train_on, self._split)).encode())
        for commit in self._commits:
            digest.update(f"{commit.sha256} {commit.rows}\n".encode())
        return digest.hexdigest()

    def __iter__(self) -> Iterator[tuple[Example, Position]]:
        """All examples, again and again."""
        return self.read(Position())

    def read(self, position: Position) -> Iterator[tuple[Example, Position]]:
        """The examples behind a position, each with the position behind it; see `rows_from`."""
        for each, after in self.rows_from(position):
            if isinstance(each, Example):
                yield each, after

    def rows_from(self, position: Position) -> Iterator[tuple[Example | Skipped, Position]]:
        """What the rows behind a position are, each with the position behind it; never ends.

        Raises:
            SettingsError: a whole epoch went by without an example.
            CommitError: a part is damaged or gone.
            StorageError: the store failed.
        """
        since: Counter[str] = Counter()
        for row, after in self._rows(position):
            each = read_example(row, self._train_on, self._split)
            since = Counter() if isinstance(each, Example) else since + Counter([each.reason])
            if since.total() >= self.rows:
                raise SettingsError(self._describe_nothing(since))
            yield each, after

    def _rows(self, position: Position) -> Iterator[tuple[LabelRow, Position]]:
        epoch, taken = position.epoch, position.taken
        while True:
            for window in plan_epoch(self._blocks, self._window_rows, self._seed, epoch):
                if taken < window.stop:
                    for row in self._read_window(window, epoch, taken - window.first):
                        taken += 1
                        yield row, Position(epoch, taken)
            epoch, taken = epoch + 1, 0

    def _read_window(self, window: Window, epoch: int, taken: int) -> Iterator[LabelRow]:
        """The rows of a window in their order, without those that were `taken`."""
        with ThreadPoolExecutor(READERS) as readers:
            rows = [row for block in readers.map(self._read, window.blocks) for row in block]
        for number in shuffle(len(rows), "rows", self._seed, epoch, window.first)[taken:]:
            yield rows[number]

    def _read(self, block: Block) -> list[LabelRow]:
        commit = self._commits[block.part]
        return read_block(self._store, self.prefix, commit, block.rows, COLUMNS)

    def _describe_nothing(self, reasons: Counter[str]) -> str:
        said = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        return (
            f"{shown(self.prefix)} has no row to learn from: of {self.rows:,} rows all were passed"
            f" over ({said})"
        )
