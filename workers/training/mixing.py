"""Several data sets in one stream, each with its weight.

Which one gives example number n is drawn by seed and n alone, so it is the same however training
was interrupted, and whatever is passed over in the others.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from math import isfinite

from workers.errors import SettingsError
from workers.storage.uris import shown
from workers.training.chance import draw
from workers.training.examples import Example, Skipped
from workers.training.reading import ExampleStream, Position


@dataclass(frozen=True, slots=True)
class MixPosition:
    """How far a mix has been read."""

    taken: int
    """examples that have come by"""
    streams: tuple[Position, ...]
    """how far each data set has been read"""


@dataclass(frozen=True, slots=True)
class Drawn:
    """An example of a mix."""

    example: Example
    after: MixPosition
    """behind it"""
    skipped: Counter[str]
    """rows of its data set that were passed over before it, by reason"""


class Mix:
    """Data sets with weights.

    Args:
        streams: the data sets, each with its weight, above 0: examples come from them in the
            proportion of the weights, whatever their sizes.
        seed: of the draw.

    Raises:
        SettingsError: there is no data set, or a weight is no number above 0.
    """

    def __init__(self, streams: Sequence[tuple[ExampleStream, float]], *, seed: int) -> None:
        if not streams:
            raise SettingsError("there is nothing to learn from: name a label table with --data")
        for stream, weight in streams:
            if not (isfinite(weight) and weight > 0):
                raise SettingsError(
                    f"the weight of {shown(stream.prefix)} is {weight!r}; it must be above 0."
                    " Leave a data set out that is not to be learned."
                )
        self.streams = tuple(stream for stream, _ in streams)
        self._weights = tuple(float(weight) for _, weight in streams)
        self.seed = seed

    @property
    def rows(self) -> int:
        """Of one epoch of each data set together."""
        return sum(stream.rows for stream in self.streams)

    @property
    def start(self) -> MixPosition:
        """Before the first example."""
        return MixPosition(0, (Position(),) * len(self.streams))

    @property
    def digest(self) -> str:
        """Of all that decides which example comes when; a position means nothing elsewhere."""
        of_each = [stream.digest for stream in self.streams]
        return sha256(repr((self.seed, self._weights, of_each)).encode()).hexdigest()

    def owner(self, number: int) -> int:
        """The data set that gives an example: its place among the streams."""
        steps = list(accumulate(self._weights))
        drawn = draw("mix", self.seed, number) * steps[-1]
        return min(bisect_right(steps, drawn), len(steps) - 1)  # the product may be rounded up

    def __iter__(self) -> Iterator[Drawn]:
        """All examples, without end."""
        return self.read(self.start)

    def read(self, position: MixPosition) -> Iterator[Drawn]:
        """The examples behind a position; see `ExampleStream.rows_from` for what is raised."""
        places = list(position.streams)
        rows = [stream.rows_from(place) for stream, place in zip(self.streams, places, strict=True)]
        taken = position.taken
        while True:
            owner, skipped = self.owner(taken), Counter[str]()
            each, places[owner] = next(rows[owner])
            while isinstance(each, Skipped):
                skipped[each.reason] += 1
                each, places[owner] = next(rows[owner])
            taken += 1
            yield Drawn(each, MixPosition(taken, tuple(places)), skipped)
