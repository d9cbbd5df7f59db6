"""What is away for a while is waited for, longer each time: a store, a queue."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from workers.errors import LineError, QueueTrouble, StorageUnavailable
from workers.logs import Level
from workers.stopping import Stop
from workers.watching.telling import Say

SHORTEST_STEP = 0.5
"""Between two looks at a clock, or whether the watcher was asked to end; seconds."""
FIRST_WAIT, LONGEST_WAIT = 5.0, 600.0
"""Seconds before something that failed is tried again: doubled each time, up to the longest."""
TRIES_ONCE = 3
"""Of a store that is away, when the watcher is to end by itself."""
PASSING: Mapping[str, type[LineError]] = {
    "store": StorageUnavailable,
    "news": StorageUnavailable,  # the store, too, while messages are looked after
    "queue": QueueTrouble,
}
"""What is waited for, by what it is about."""


class Patience:
    """Counts what fails in a row, and waits.

    Args:
        once: whether the watcher is to end by itself: then a store is waited for so often only.
        stop: ends every wait.
        say: takes lines for the user.
        clock: seconds, never set back.
    """

    def __init__(self, once: bool, stop: Stop, say: Say, clock: Callable[[], float]) -> None:
        self._once, self._stop, self._say, self._clock = once, stop, say, clock
        self._troubles = dict.fromkeys(PASSING, 0)
        """in a row, by what it was about"""
        self._deaf_until = clock()

    @property
    def is_troubled(self) -> bool:
        """Whether what is there could not be seen the last time."""
        return self._troubles["store"] > 0

    @property
    def is_deaf(self) -> bool:
        """Whether the queue should be left alone for a while."""
        return self._clock() < self._deaf_until

    @contextmanager
    def about(self, what: str) -> Iterator[None]:
        """Forgives what is passing, and waits; a queue is left alone, since sweeps go on.

        Args:
            what: a name of `PASSING`.
        """
        try:
            yield
            self._troubles[what] = 0
        except PASSING[what] as error:
            self._troubles[what] += 1
            if self._once and what != "queue" and self._troubles[what] >= TRIES_ONCE:
                raise
            wait = back_off(self._troubles[what])
            self._say(f"{error}; tried again in {wait:.0f} s", Level.ERROR)
            if what == "queue":
                self._deaf_until = self._clock() + wait
            else:
                self.sleep(wait)

    def sleep(self, seconds: float) -> None:
        """Waits, but not when the watcher is asked to end."""
        until = self._clock() + seconds
        while not self._stop.reason and self._clock() < until:
            time.sleep(min(SHORTEST_STEP, max(0.0, until - self._clock())))


def back_off(tries: int) -> float:
    """Seconds before something is tried again that failed so many times in a row."""
    doubled = min(tries - 1, 30)  # after a week of them the number itself would be too large
    return min(FIRST_WAIT * 2**doubled, LONGEST_WAIT)
