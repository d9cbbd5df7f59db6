"""Those who learn together: what the loop asks of them, and one worker that is alone."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

from torch import Tensor, nn

Value = TypeVar("Value")


class Peers(Protocol):
    """The workers that learn together."""

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""
        ...

    @property
    def world(self) -> int:
        """How many there are."""
        ...

    def mean(self, values: Tensor) -> Tensor:
        """Of a value of each."""
        ...

    def gather(self, value: Value) -> list[Value]:
        """What each of them gives, in the order of their ranks; all of them must ask."""
        ...

    def apart(self, learner: nn.Module) -> AbstractContextManager[object]:
        """Within it, gradients are added up and not shared yet."""
        ...

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor of which each may hold a part; all of them must ask."""
        ...

    def part_of(self, whole: Tensor, like: Tensor) -> Tensor:
        """What this worker holds of it, if it holds as much as of `like`."""
        ...


class Alone(Peers):
    """One worker."""

    @property
    def rank(self) -> int:
        """The first."""
        return 0

    @property
    def world(self) -> int:
        """One."""
        return 1

    def mean(self, values: Tensor) -> Tensor:
        """Its own value."""
        return values

    def apart(self, learner: nn.Module) -> AbstractContextManager[object]:
        """Nothing is shared."""
        return nullcontext()

    def gather(self, value: Value) -> list[Value]:
        """Its own."""
        return [value]

    def whole(self, tensor: Tensor) -> Tensor:
        """It is."""
        return tensor

    def part_of(self, whole: Tensor, like: Tensor) -> Tensor:
        """All of it."""
        return whole
