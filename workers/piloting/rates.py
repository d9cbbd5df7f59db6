"""How fast a pilot was, with an interval: the records of its replicas over time.

The time from the first replica that is ready to the last record is cut into windows. In each, so
many records were answered by so many replicas; how much that differs from window to window says how
well the mean is known. The windows at both ends, where batches fill and drain, make the mean a
little too low, and so the hours a little too many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from workers.summaries import Pulse

WINDOWS = 10
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Range:
    """A number that is known only so well."""

    low: float
    middle: float
    high: float

    @classmethod
    def of_mean(cls, values: Sequence[float]) -> "Range":
        """The mean of what values like these are drawn from (Student's t); never below 0."""
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(0.0, mean, math.inf)
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        around = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
        return cls(max(0.0, mean - around), mean, mean + around)

    @classmethod
    def exactly(cls, value: float) -> "Range":
        """A number that is known."""
        return cls(value, value, value)

    def over(self, other: "Range") -> "Range":
        """The least over the highest, to the highest over the least."""
        parts = (self.low, other.high), (self.middle, other.middle), (self.high, other.low)
        return Range(*(above / below if below else math.inf for above, below in parts))

    def scaled(self, factor: float) -> "Range":
        """All three, multiplied."""
        return Range(self.low * factor, self.middle * factor, self.high * factor)

    def plus(self, more: float) -> "Range":
        """All three, and something that is known."""
        return Range(self.low + more, self.middle + more, self.high + more)


def rate_of(heard: Sequence[tuple[float, Pulse]]) -> Range | None:
    """Records per second of one replica; None where too little was heard to say.

    Args:
        heard: pulses of the replicas with their times in seconds, in order; `Pulse.records` are
            those of the pilot.
    """
    ready = [(when, pulse) for when, pulse in heard if pulse.replicas]
    if not ready:
        return None
    times = np.array([when for when, _ in ready])
    records = np.array([pulse.records for _, pulse in ready], dtype=float)
    replicas = np.array([pulse.replicas for _, pulse in ready], dtype=float)
    last = int(np.argmax(records))  # the first pulse that knew of all of them
    if times[last] <= times[0]:
        return None
    edges = np.linspace(times[0], times[last], WINDOWS + 1)
    answered = np.diff(np.interp(edges, times, records))
    at_work = np.interp((edges[:-1] + edges[1:]) / 2, times, replicas)
    return Range.of_mean(answered / np.diff(edges) / at_work)
