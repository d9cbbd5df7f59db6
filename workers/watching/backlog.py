"""The backlog: drops that differ from what is labelled, found by sweeps and by looks.

A sweep lists the whole input and is right even if every event is lost. A look lists one drop: for
an event's sake, or since its time to settle has passed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from workers.markdown import one_line
from workers.progress import Progress
from workers.stopping import Stop
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown, written
from workers.watching.cursor import Changes, Cursor
from workers.watching.days import Days
from workers.watching.drops import Drop, find_drops, look_at, why_unfit
from workers.watching.leases import Leases
from workers.watching.readiness import Readiness
from workers.watching.settings import WatchSettings
from workers.watching.status import DropStatus, State
from workers.wording import counted

LISTED_AT_ONCE = 1_000
"""Names in an answer of S3."""
NAME_SHOWN = 40
"""Of a name that no drop can have."""


@dataclass(slots=True)
class Waiting:
    """A drop that differs from what is labelled."""

    drop: Drop
    look_again: float
    """not before this time of the watcher's clock"""
    is_complete: bool = False
    tries: int = 0
    """in a row that ended unfinished"""
    is_elsewhere: bool = False
    """another watcher has it in hand, and is alive"""
    is_growing: bool = False
    """it has changed since this watcher saw it first"""

    @property
    def why_later(self) -> str:
        """Why this watcher, if it works only once, leaves it for another time; else empty."""
        if self.tries:
            return "it could not be labelled"
        if self.is_elsewhere:
            return "another watcher has it in hand"
        return "it still changes" if self.is_growing and not self.is_complete else ""


class Backlog:
    """What is to be labelled, and when.

    Args:
        store: where everything lies.
        settings: of the watcher.
        cursor: knows what is labelled.
        days: hears of drops that are gone, or can't be.
        leases: of the watcher: who has the lease of a drop tells that it is gone.
        progress: takes lines for the user.
        stop: ends sweeps.
        clock: seconds, never set back.
    """

    def __init__(
        self,
        store: Store,
        settings: WatchSettings,
        cursor: Cursor,
        days: Days,
        leases: Leases,
        progress: Progress,
        stop: Stop,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._settings, self._cursor, self._days = store, settings, cursor, days
        self._leases, self._say, self._stop, self._clock = leases, progress.say, stop, clock
        self._readiness = Readiness(settings.settle_seconds, clock)
        self.waiting: dict[str, Waiting] = {}
        """by name of the drop"""
        self.next_sweep = clock()
        self.sweep_costs = 0
        """requests of a sweep, about: one for each drop that is due may cost more"""
        self._everything = settings.refresh
        self._told_unfit: set[str] = set()
        self._said = ""

    @property
    def next_look(self) -> float:
        """When there is something to look at, by the clock."""
        return min([self.next_sweep, *(each.look_again for each in self.waiting.values())])

    def look(self) -> None:
        """Looks at what may have changed: at all of it, or at what is waited for."""
        if self._clock() >= self.next_sweep or len(self._due()) > self.sweep_costs:
            self.sweep()
        for each in self._due():
            if self._stop.reason:
                return
            self.look_at(each.drop.name)

    def sweep(self) -> None:
        """Looks at everything that is dropped."""
        self._cursor.claim(self._settings.input)
        noted = self._cursor.digests()
        there = list(self._fit(find_drops(self._store, self._settings.input, self._own())))
        if self._stop.reason:  # then these are not all
            return
        for drop in there:
            self._take_note(drop, noted.get(drop.name))
        gone = (noted.keys() | self.waiting.keys()) - {drop.name for drop in there}
        for name in sorted(gone):
            self.tell_gone(name, was_labelled=name in noted)
        self._everything = False
        self.sweep_costs = 1 + sum(drop.files for drop in there) // LISTED_AT_ONCE
        if not self.waiting:
            all_done = f"nothing is new: {counted(len(there), 'drop')}, all labelled"
            nothing = f"{shown(self._settings.input)} holds nothing yet"
            self._say_once(all_done if there else nothing)
        self.next_sweep = self._clock() + self._settings.sweep_seconds

    def look_at(self, name: str) -> None:
        """Looks at one drop."""
        drop = look_at(self._store, self._settings.input, name, self._own())
        noted = self._cursor.of(name)
        if drop is None:
            self.tell_gone(name, was_labelled=bool(noted))
        else:
            self._take_note(drop, noted)

    def is_settled(self, drop: Drop, noted: frozenset[str] | None) -> bool:
        """Whether a drop needs no work: it is labelled as it is, or refused.

        Args:
            drop: as it is.
            noted: what the cursor has of it.
        """
        refused = self._settings.refusal_of(drop.digest)
        return noted in (frozenset([drop.digest]), frozenset([refused]))

    def forget(self, name: str) -> None:
        """The drop is done with."""
        self.waiting.pop(name, None)
        self._readiness.forget(name)

    def complete(self) -> list[Waiting]:
        """What can be labelled now, those first that are complete for longest."""
        now = self._clock()
        found = (each for each in self.waiting.values() if each.is_complete)
        return sorted(
            (each for each in found if each.look_again <= now), key=lambda each: each.look_again
        )

    def put_off(self, each: Waiting, seconds: float) -> None:
        """Looks at a drop again after so many seconds; by then it may be labelled, or other."""
        each.is_complete, each.look_again = False, self._clock() + seconds

    def tell_gone(self, name: str, *, was_labelled: bool) -> None:
        """Tells of a drop of which nothing is left; its labels are kept."""
        self.forget(name)
        if not was_labelled or (lease := self._leases.take(name)) is None:
            return
        try:
            if self._cursor.of(name):  # else another one was first
                self._write_gone(name)
        finally:
            lease.release()

    def _write_gone(self, name: str) -> None:
        deleted = tuple(self._cursor.content(name))
        gone = DropStatus.begin(
            name,
            State.GONE,
            f"all of its {counted(len(deleted), 'file')} were deleted; the labels are kept",
            source=join_uri(self._settings.input, name),
            labels=join_uri(self._settings.output, name),
            changes=Changes(deleted=deleted),
        )
        status = gone.with_counts_of(DropStatus.read(self._store, gone.labels))
        self._say(f"{one_line(name)}: {status.message}")
        status.write(self._store)
        self._days.note(status)
        self._cursor.forget(name)

    def _due(self) -> list[Waiting]:
        now = self._clock()
        waiting = self.waiting.values()
        return [each for each in waiting if not each.is_complete and each.look_again <= now]

    def _own(self) -> tuple[str, ...]:
        """What is no input although it may lie there."""
        return (self._settings.output,)

    def _fit(self, drops: Iterable[Drop]) -> Iterator[Drop]:
        """Those whose labels can have a folder; of the others the people are told."""
        for drop in drops:
            if self._stop.reason:
                return
            if not (why := why_unfit(drop.name)):
                yield drop
            elif drop.name not in self._told_unfit:
                self._told_unfit.add(drop.name)
                name = one_line(written(drop.name)[:NAME_SHOWN]) or "(no name)"
                self._say(f"{name}: {why}")
                self._days.note_by_itself(name, why, source=drop.input)

    def _take_note(self, drop: Drop, noted: frozenset[str] | None) -> None:
        """Of a drop that is there: whether there is something to do, and when."""
        again = self._everything or (self._settings.refresh and drop.name in self.waiting)
        if self.is_settled(drop, noted) and not again:
            self.forget(drop.name)
            return
        now = self._clock()
        each = self.waiting.setdefault(drop.name, Waiting(drop, now))
        if each.drop.digest != drop.digest:
            each.tries, each.look_again, each.is_growing = 0, now, True
        each.drop = drop
        if each.look_again <= now:
            wait = self._readiness.seconds_left(drop)
            each.is_complete, each.look_again = wait == 0, now + wait
            if wait:
                files = counted(drop.files, "file")
                self._say(
                    f"{one_line(drop.name)}: {files}, complete in {wait:.0f} s if nothing changes"
                )

    def _say_once(self, text: str) -> None:
        """What is said by every sweep in a row is said by the first."""
        if text != self._said:
            self._say(text)
        self._said = text
