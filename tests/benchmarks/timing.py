"""Times of contestants that take turns, and what they come to.

Whatever else the machine does hits all of them alike: in every repetition each has one turn, and
the one that begins changes. Ratios are taken within a repetition.
"""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import floor, log10
from statistics import median
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Contestant(Generic[T]):
    """Something that does a piece of work, and the times that it took."""

    name: str
    work: int
    """questions, or masks, that one turn takes care of"""
    run: Callable[[], T]
    seconds: list[float] = field(default_factory=list)
    """of every turn"""
    result: T | None = None
    """of the first turn"""

    def take_turn(self) -> None:
        """Does the work once."""
        gc.collect()  # what another one left behind is not its matter
        start = time.perf_counter()
        result = self.run()
        self.seconds.append(time.perf_counter() - start)
        if self.result is None:
            self.result = result

    @property
    def each(self) -> list[float]:
        """Seconds for each piece of work, of every turn."""
        return [seconds / self.work for seconds in self.seconds]


class Racing(Protocol):
    """Something that can have a turn."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def seconds(self) -> list[float]:
        """Of every turn."""

    def take_turn(self) -> None:
        """Does its work once."""


def race(contestants: Sequence[Racing], repetitions: int, about: str = "") -> None:
    """Gives every contestant one turn per repetition; the one that begins changes.

    Args:
        contestants: at least one.
        repetitions: at least 1.
        about: what is compared, for whoever waits.
    """
    for number in range(repetitions):
        first = number % len(contestants)
        for each in (*contestants[first:], *contestants[:first]):
            turn = f"{about}repetition {number + 1} of {repetitions}: {each.name}:"
            print(turn, end=" ", file=sys.stderr, flush=True)  # a turn may take minutes
            each.take_turn()
            say(f"{each.seconds[-1]:.2f} s")


def times_slower(theirs: Contestant[T], ours: Contestant[T]) -> list[float]:
    """Seconds of theirs over seconds of ours for the same work, of every repetition."""
    return [a / b for a, b in zip(theirs.each, ours.each, strict=True)]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median, least and most, with so many digits that count: `2.1 (2.0-2.4)`."""
    middle, least, most = (significant(f(values), digits) for f in (median, min, max))
    return f"{middle} ({least}–{most})"


def significant(value: float, digits: int = 3) -> str:
    """A positive number with so many digits that count, and no power of ten."""
    if value == 0:
        return "0"
    return f"{value:,.{max(0, digits - 1 - floor(log10(value)))}f}"


def say(line: str) -> None:
    """A line of progress, beside the tables."""
    print(line, file=sys.stderr, flush=True)
