"""Tells what became of a drop: a line for whoever runs the watcher, a status, the day's page."""

from dataclasses import dataclass, replace
from typing import Protocol

from workers.errors import StorageError
from workers.logs import Level
from workers.markdown import one_line
from workers.storage.objects import Store
from workers.storage.uris import written
from workers.watching.days import Days
from workers.watching.status import STATUS_NAME, DropStatus, State

LEVELS = {State.UNFINISHED: Level.ERROR, State.REFUSED: Level.WARNING}
"""How much a line matters that tells of such a drop; those of others are for information."""


class Say(Protocol):
    """Takes lines for whoever runs the watcher, as `workers.progress.Progress.say` does."""

    def __call__(self, text: str, level: Level = Level.INFO, *, drop: str | None = None) -> None:
        """One line, how much it matters, and the name of the drop that it is about, if of one."""


@dataclass(frozen=True, slots=True)
class Teller:
    """Tells of drops.

    Args:
        store: where the output lies.
        days: the pages.
        say: takes the lines.
    """

    store: Store
    days: Days
    say: Say

    def tell(self, status: DropStatus, *, on_purpose: bool = False) -> State:
        """Tells of one drop.

        Args:
            status: of the drop.
            on_purpose: whether it is unfinished since the watcher was asked to end.

        Returns:
            The state that was told: a drop whose own folder takes no status is not done, whatever
            its labels are, and the day's page says so.

        Raises:
            StorageError: not even the page can be written, so it is not about this drop.
        """
        try:
            status.write(self.store)
        except StorageError as error:
            state = State.GONE if status.state is State.GONE else State.UNFINISHED
            message = f"{status.message}. Its {STATUS_NAME} can't be written: {error}"
            status = replace(status, state=state, message=message)
        level = Level.INFO if on_purpose else LEVELS.get(status.state, Level.INFO)
        name = written(status.drop)
        self.say(f"{one_line(status.drop)}: {status.message}", level, drop=name)
        self.days.note(status)
        return status.state

    def tell_by_page(self, name: str, why: str, source: str) -> None:
        """Tells of what has no folder of labels, and so no status; once a day, on the page.

        Args:
            name: of what it is about.
            why: nothing came of it.
            source: where it lies.
        """
        self.say(f"{one_line(name)}: {why}", Level.WARNING)
        status = DropStatus.begin(name, State.REFUSED, why, source=source, labels="")
        self.days.note(status, once=True)
