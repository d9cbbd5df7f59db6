"""The meter: hears what a replica does while it does it, and keeps silent.

`workers.metrics` has the one that tells Ray. A call costs about nothing, and may come from any
thread; ids and addresses are never told, since what is counted must stay few.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum

from workers.labels.schema import LabelRow


class Stage(StrEnum):
    """What the time of a replica goes to."""

    READ = "read"
    """records and images from the store"""
    DECODE = "decode"
    """images into pictures, and those to the model's size"""
    MODEL = "model"
    """steps of the engine: one thread, so at most a second a second"""
    ENCODE = "encode"
    """answers into rows, and rows into a part of the table"""
    COMMIT = "commit"
    """the part and its marker into the output"""


class Meter:
    """Hears what a replica does."""

    def spent(self, stage: Stage, seconds: float) -> None:
        """A thread has spent so long on it."""

    def labelled(self, rows: Sequence[LabelRow]) -> None:
        """A record has become these rows, which aren't committed yet."""

    def stepped(self, questions: int, waiting: int) -> None:
        """The model has made a step with so many questions, while others waited for a place."""

    def committed(self, won: bool) -> None:
        """A shard is committed, by this attempt or by another that was first."""

    def retried(self) -> None:
        """A shard is begun again in this replica, since a store was away."""

    def flush(self) -> None:
        """Passes on what it has heard until now."""

    @contextmanager
    def timing(self, stage: Stage) -> Iterator[None]:
        """Measures what is done in it, also where that fails."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.spent(stage, time.monotonic() - started)
