"""Chance for the drawn world, all of it made from numbers between 0 and 1.

Only `random()` of a generator is used: its stream stays the same between versions of numpy and
Python, which neither promises for choosing or shuffling; a held-out scene has to stay what it was.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Dice(Protocol):
    """A source of chance: `random.Random` and numpy's `Generator` both are one."""

    def random(self) -> float:
        """A number from 0 up to but not including 1."""
        ...


def whole(rng: Dice, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return low + int(rng.random() * (high - low + 1))


def pick(rng: Dice, options: Sequence[T]) -> T:
    """One of the options, all equally likely."""
    return options[int(rng.random() * len(options))]


def pick_weighted(rng: Dice, shares: Mapping[T, float]) -> T:
    """One of the keys, as often as its share of the whole."""
    chance = rng.random() * sum(shares.values())
    for option, share in shares.items():
        chance -= share
        if chance < 0:
            return option
    return next(iter(shares))  # what rounding leaves over


def some(rng: Dice, options: Sequence[T], count: int) -> list[T]:
    """Different ones of the options, in any order; all of them if there are no more."""
    keys = [(rng.random(), index) for index in range(len(options))]
    return [options[index] for _, index in sorted(keys)[:count]]
