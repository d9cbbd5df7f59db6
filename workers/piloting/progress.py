"""What is heard of a pilot while it runs, with its time: what a rate is worked out from."""

import time
from collections.abc import Callable

from workers.progress import Progress
from workers.summaries import Pulse, ShardSummary


class PilotProgress(Progress):
    """Tells what `Progress` does, and keeps what it hears with its time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name="plan")
        self._clock = clock
        self.began = clock()
        self.heard: list[tuple[float, Pulse]] = []
        self.records: dict[str, int] = {}
        """of each shard that is done"""

    @property
    def ready(self) -> float:
        """When the first replica was; only once one is."""
        return next(when for when, pulse in self.heard if pulse.replicas)

    def add(self, summary: ShardSummary) -> None:
        """Counts a shard in."""
        super().add(summary)
        if summary.error is None:
            self.records[summary.shard_id] = summary.records

    def hear(self, pulse: Pulse) -> None:
        """Takes in how far the replicas are."""
        self.heard.append((self._clock(), pulse))
        super().hear(pulse)
