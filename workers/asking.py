"""What is asked of a model, who waits for it, and what comes back."""

import asyncio
from collections import defaultdict
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

    @property
    def in_step(self) -> int:
        """Questions that the newest step brought on."""

    def add(self, sample: Sample) -> Job:
        """Puts all questions of a sample at the end of the line."""

    def step(self) -> list[Job]:
        """Brings everything under way one step on; returns the samples that are done."""

    def withdraw(self, job: Job) -> None:
        """Forgets a sample that nobody waits for any more."""

    def abandon(self) -> None:
        """Forgets all that is under way or waits."""


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
        """Keeps replies.

        Returns:
            Whether all are there.
        """
        self.replies.update(zip(places, replies, strict=True))
        return len(self.replies) == len(self.sample.questions)

    def settle(self) -> None:
        """Hands its asker all replies; in the thread of the event loop."""
        if not self.future.done():
            self.future.set_result(tuple(self.replies[at] for at in range(len(self.replies))))

    def fail(self, error: Exception) -> None:
        """Tells its asker that there will be no answer; in the thread of the event loop, too."""
        if isinstance(error, StopIteration):  # which no future takes
            error = RuntimeError(f"the model raised {error!r}")
        if not self.future.done():
            self.future.set_exception(error)


class Outbox:
    """What askers are to be told, from the model's thread.

    All replies of a step go in one call: it wakes the event loop's thread, which then holds Python
    while the model waits for it.
    """

    def __init__(self) -> None:
        self._letters: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = defaultdict(list)

    def put(self, asked: Asked, tell: Callable[[], None]) -> None:
        """Keeps what is to be called where `asked` is waited for."""
        self._letters[asked.future.get_loop()].append(tell)

    def send(self) -> None:
        """Has everything called that was put in since the last time."""
        for loop in list(self._letters):
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_open_all, self._letters[loop])
            del self._letters[loop]  # not before: what could not be sent is sent the next time


def _open_all(letters: Sequence[Callable[[], None]]) -> None:
    for tell in letters:
        tell()


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
