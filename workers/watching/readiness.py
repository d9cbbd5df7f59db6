"""When a drop is complete: its owner says so, or it has not changed for a time.

Times are measured between two looks, by this machine's own clock that nobody sets: the clocks of
the store, of whoever uploads and of other watchers may say what they like.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from workers.watching.drops import Drop


@dataclass(frozen=True, slots=True)
class _Look:
    digest: str
    since: float


class Readiness:
    """Remembers since when drops are as they are.

    Args:
        settle_seconds: without a change, after which a drop without a mark counts as complete.
        clock: seconds, never set back.
    """

    def __init__(self, settle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._settle_seconds, self._clock = settle_seconds, clock
        self._looks: dict[str, _Look] = {}

    def seconds_left(self, drop: Drop) -> float:
        """Takes a look at a drop; the seconds until it is complete if it stays so, 0 if it is."""
        look = self._looks.get(drop.name)
        if look is None or look.digest != drop.digest:
            look = self._looks[drop.name] = _Look(drop.digest, self._clock())
        if drop.is_marked:
            return 0.0
        return max(0.0, look.since + self._settle_seconds - self._clock())

    def forget(self, name: str) -> None:
        """The drop is labelled, or gone."""
        self._looks.pop(name, None)
