"""Windows: an epoch of a label table, cut into pieces that fit into memory, in a shuffled order.

    parts -> blocks -> blocks in the order of the epoch -> windows, whose rows are shuffled, too

A block is what is read at once: a row group, as parts are written. All of it follows from the
counts of rows in the commits, so the window of any place is found without reading a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.labels.commits import Commit
from workers.labels.table import ROW_GROUP_ROWS
from workers.training.chance import shuffle


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that are read together."""

    part: int
    """place of its commit in the table, from 0"""
    rows: range
    """their numbers in the part, from 0"""


@dataclass(frozen=True, slots=True)
class Window:
    """Blocks whose rows are in memory, and shuffled, together."""

    first: int
    """rows of the epoch that come before it"""
    blocks: tuple[Block, ...]

    @property
    def stop(self) -> int:
        """Rows of the epoch up to its end."""
        return self.first + sum(len(block.rows) for block in self.blocks)


def cut_blocks(commits: Sequence[Commit]) -> list[Block]:
    """All rows of a table, in the order of its parts."""
    return [
        Block(part, range(start, min(start + ROW_GROUP_ROWS, commit.rows)))
        for part, commit in enumerate(commits)
        for start in range(0, commit.rows, ROW_GROUP_ROWS)
    ]


def plan_epoch(
    blocks: Sequence[Block], window_rows: int, seed: int, epoch: int
) -> Iterator[Window]:
    """The windows of one epoch, in order.

    Args:
        blocks: of the table.
        window_rows: a window is full when it has as many; it may have up to a block more.
        seed: of the order.
        epoch: from 0; each has an order of its own.
    """
    first, rows = 0, 0
    together: list[Block] = []
    for number in shuffle(len(blocks), "blocks", seed, epoch):
        together.append(blocks[number])
        rows += len(blocks[number].rows)
        if rows >= window_rows:
            yield Window(first, tuple(together))
            first, rows, together = first + rows, 0, []
    if together:
        yield Window(first, tuple(together))
