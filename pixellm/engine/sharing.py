"""Which rows of a step read their picture's prefix together.

Together they read it once; but entries are padded to the largest, so it has to pay. In a kernel
nothing is padded, but rows that stand together come one after the other (`stand_together`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pixellm.engine.slots import round_up
from pixellm.kernel_choice import MOST_TOGETHER

QUERIES_TOGETHER = 16
"""That rows which stand together have at most: tensor cores take so many at once."""
PROGRAMS = 512
"""That a GPU should have at least, to be busy: it runs a few hundred at a time."""
PADDING = 2
"""Padded entries may be so many times the rows: reading a prefix once is worth it up to there."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which rows of a part read their prefix together, as lists of a `View`."""

    pictures: list[int]
    """of each entry"""
    entries: list[list[int]]
    """rows of the part"""
    seats: list[int]
    """of each row among the entries"""
    alike: bool = False
    """whether other parts have these shapes too"""


def share(
    members: Sequence[int], everyone: bool, picture_of: Sequence[int], alike: bool
) -> Sharing:
    """Puts the rows of a part together.

    Args:
        members: of the part, by their places among all rows under way.
        everyone: whether they are all of them, in order.
        picture_of: the slot of each row's picture; places behind it are spare.
        alike: whether others should have the shape, where that pays.
    """
    count = len(members)
    if alike and not everyone:  # few rows: each for itself
        return _each_alone([picture_of[member] for member in members])
    if alike and list(picture_of) == list(range(len(picture_of))):  # and so are the spare ones
        return _each_alone(range(count))
    groups: dict[int, list[int]] = {}
    for at, member in enumerate(members):
        if member < len(picture_of):  # what is behind them is spare
            groups.setdefault(picture_of[member], []).append(at)
    if alike:
        width = 1 << (max(map(len, groups.values())) - 1).bit_length()
        entries = round_up(max(groups) + 1)
        if entries * width <= PADDING * count:
            every = [(picture, groups.get(picture, [])) for picture in range(entries)]
            return _enter(every, width, count, alike=True)
    width = _choose_width([len(group) for group in groups.values()])
    parts = [
        (picture, groups[picture][start : start + width])
        for picture in sorted(groups)
        for start in range(0, len(groups[picture]), width)
    ]
    return _enter(parts, width, count)


def _each_alone(pictures: Sequence[int]) -> Sharing:
    every = range(len(pictures))
    return Sharing(list(pictures), [[at] for at in every], list(every), alike=True)


def _enter(
    parts: Sequence[tuple[int, list[int]]], width: int, count: int, alike: bool = False
) -> Sharing:
    """Entries of pictures, each with at most `width` of the part's `count` rows."""
    seats = [0] * count
    for number, (_, group) in enumerate(parts):
        for seat, at in enumerate(group):
            seats[at] = number * width + seat
    entries = [group + [0] * (width - len(group)) for _, group in parts]
    return Sharing([picture for picture, _ in parts], entries, seats, alike)


def _choose_width(counts: Sequence[int]) -> int:
    """Rows that read a prefix together: as many as padding allows."""
    rows, sizes = sum(counts), Counter(counts)
    for width in sorted(sizes, reverse=True):
        entries = sum(number * -(-size // width) for size, number in sizes.items())
        if entries * width <= PADDING * rows:
            return width
    return 1


def stand_together(pictures: Sequence[int], heads: int, groups: int = 1) -> tuple[list[int], int]:
    """The order in which a kernel takes rows, and how many at a time: a power of 2.

    Args:
        pictures: of each row.
        heads: of keys; each has programs of its own.
        groups: queries of a row that share keys.
    """
    count = len(pictures)
    most = min(
        MOST_TOGETHER,
        QUERIES_TOGETHER // groups,
        count // len(set(pictures)),
        count * heads // PROGRAMS,
    )
    order = sorted(range(count), key=pictures.__getitem__)
    return order, 1 << max(most, 1).bit_length() - 1
