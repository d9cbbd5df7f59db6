"""What is asked of a model, who waits for it, and what comes back."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from pixellm.answers import Answer
from pixellm.engine.engine import Job
from pixellm.engine.rows import Sample


class Asking(Protocol):
    """What is needed of `pixellm.engine.engine.Engine`."""

    @property
    def busy(self) -> bool:
        """Whether a question waits for its answer."""
        ...

    @property
    def in_step(self) -> int:
        """Questions that the newest step brought on."""
        ...

    def add(self, sample: Sample) -> Job:
        """Puts all questions of a sample at the end of the line."""
        ...

    def step(self) -> list[Job]:
        """Brings everything under way one step on; returns the samples that are done."""
        ...

    def withdraw(self, job: Job) -> None:
        """Forgets a sample that nobody waits for any more."""
        ...

    def abandon(self) -> None:
        """Forgets all that is under way or waits."""
        ...


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A question that the model could not answer, also when it was asked alone."""

    message: str


Reply = Answer | Unanswered
Future = asyncio.Future[tuple[Reply, ...]]


@dataclass(slots=True, eq=False)
class Asked:
    """A sample, and the future that its asker waits for in the event loop's thread."""

    sample: Sample
    future: Future
    job: Job | None = None
    """in the engine"""
    replies: dict[int, Reply] = field(default_factory=dict)
    """by the question's place in the sample"""

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.cancelled()

    def whole(self) -> "Part":
        """All its questions."""
        return Part(self, range(len(self.sample.questions)))

    def note(self, places: Sequence[int], replies: Sequence[Reply]) -> bool:
        """Keeps replies until all are there, and then tells them.

        Returns:
            Whether all are there.
        """
        self.replies.update(zip(places, replies, strict=True))
        if len(self.replies) < len(self.sample.questions):
            return False
        whole = tuple(self.replies[at] for at in range(len(self.replies)))
        self._tell(lambda: self.future.set_result(whole))
        return True

    def fail(self, error: Exception) -> None:
        """Tells that there will be no answer."""
        if isinstance(error, StopIteration):  # which no future takes
            error = RuntimeError(f"the model raised {error!r}")
        self._tell(lambda: self.future.set_exception(error))

    def _tell(self, settle: Callable[[], None]) -> None:
        def settle_once() -> None:
            if not self.future.done():
                settle()

        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self.future.get_loop().call_soon_threadsafe(settle_once)


@dataclass(frozen=True, slots=True)
class Part:
    """Some questions of a sample."""

    asked: Asked
    places: range

    @property
    def sample(self) -> Sample:
        """With these questions only."""
        questions = self.asked.sample.questions
        return replace(self.asked.sample, questions=tuple(questions[at] for at in self.places))

    def halves(self) -> "list[list[Part]]":
        """Half of its questions each; nothing of a single one."""
        half = len(self.places) // 2
        parts = (self.places[:half], self.places[half:]) if half else ()
        return [[Part(self.asked, places)] for places in parts]


def halve(parts: Sequence[Part]) -> list[list[Part]]:
    """Half of the samples each; of a single one, half of its questions; nothing of a single one."""
    half = len(parts) // 2
    return [list(parts[:half]), list(parts[half:])] if half else parts[0].halves()
