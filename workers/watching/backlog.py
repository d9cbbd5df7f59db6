"""The backlog: drops that differ from what is labelled, found by sweeps and by looks.

A sweep lists the whole input and is right even if every event is lost. A look lists one drop: for
an event's sake, since its time to settle has passed, or before it is labelled.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from workers.markdown import one_line
from workers.stopping import Stop
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown, written
from workers.watching.cursor import Cursor
from workers.watching.days import DAYS
from workers.watching.drops import Drop, find_drops, look_at, why_unfit
from workers.watching.gone import Gone
from workers.watching.marks import is_settled
from workers.watching.readiness import Readiness
from workers.watching.settings import WatchSettings
from workers.watching.telling import Teller
from workers.wording import counted

LISTED_AT_ONCE = 1_000
"""Names in an answer of S3."""
MOST_REFUSED = 10
"""Of the drops that were refused, by name."""
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
    """another watcher has it in hand, and was seen to be alive since the last wave ended"""
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
        gone: hears of drops that are not there any more.
        teller: tells of what can be no drop.
        stop: ends sweeps.
        clock: seconds, never set back.
    """

    def __init__(
        self,
        store: Store,
        settings: WatchSettings,
        cursor: Cursor,
        gone: Gone,
        teller: Teller,
        stop: Stop,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._settings, self._cursor = store, settings, cursor
        self._gone, self._teller, self._say = gone, teller, teller.say
        self._stop, self._clock = stop, clock
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
        """Looks at what may have changed: at all of it, or at what is waited for.

        Raises:
            StorageError: a store failed.
        """
        if self._clock() >= self.next_sweep or len(self._due()) > self.sweep_costs:
            self.sweep()
        for each in self._due():
            if self._stop.reason:
                return
            self.look_at(each.drop.name)

    def sweep(self) -> None:
        """Looks at everything that is dropped."""
        self._cursor.claim(self._settings.input)
        noted, begun = self._cursor.marks(), self._cursor.begun()
        there = {drop.name: drop for drop in self._find_fit()}
        if self._stop.reason:  # then these are not all
            return
        for name, drop in there.items():
            self._weigh(drop, noted.get(name), is_begun=name in begun)
        gone = (noted.keys() | begun) - there.keys()
        if gone or not there:
            self._gone.tell(gone)
        for name in self.waiting.keys() - there.keys():
            self.forget(name)
        self._everything = False
        self.sweep_costs = 1 + sum(drop.files for drop in there.values()) // LISTED_AT_ONCE
        if not (self.waiting or gone):
            refused = [name for name in there if there[name].digest not in noted.get(name, ())]
            self._say_that_nothing_is_new(len(there), refused)
        self.next_sweep = self._clock() + self._settings.sweep_seconds

    def look_at(self, name: str) -> Waiting | None:
        """Looks at one drop; what there is to do for it, if anything."""
        drop = look_at(self._store, self._settings.input, name, self._own())
        if drop is not None:
            is_begun = self._cursor.is_begun(name)
            return self._weigh(drop, self._cursor.marks_of(name), is_begun=is_begun)
        if self._cursor.knows(name):
            self._gone.tell([name])
        self.forget(name)
        return None

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

    def _due(self) -> list[Waiting]:
        now = self._clock()
        waiting = self.waiting.values()
        return [each for each in waiting if not each.is_complete and each.look_again <= now]

    def _own(self) -> tuple[str, ...]:
        """What is no input although it may lie there."""
        return (self._settings.output,)

    def _find_fit(self) -> Iterator[Drop]:
        """Drops whose labels can have a folder; of the others the people are told."""
        prefix, own = self._settings.input, self._own()
        found: Iterable[Drop] = find_drops(self._store, prefix, own, self._pass_over)
        for drop in found:
            if self._stop.reason:
                return
            if not (why := why_unfit(drop.name)):
                yield drop
            elif drop.name not in self._told_unfit:
                self._told_unfit.add(drop.name)
                name = one_line(written(drop.name)[:NAME_SHOWN]) or "(no name)"
                self._teller.tell_by_page(name, why, source=drop.input)

    def _pass_over(self, name: str) -> None:
        if name not in self._told_unfit:
            self._told_unfit.add(name)
            shown_name = one_line(written(name)[:NAME_SHOWN])
            self._say(f"{shown_name}: passed over, as all folders whose names begin with _ or .")

    def _weigh(self, drop: Drop, noted: frozenset[str] | None, *, is_begun: bool) -> Waiting | None:
        """What there is to do for a drop that is there, and when; None where there is nothing.

        Args:
            drop: as it is.
            noted: what the cursor has of it.
            is_begun: whether something was told of it since: its last word may be that of another
                time, when it was changed, or could not be looked at.
        """
        again = self._everything or (self._settings.refresh and drop.name in self.waiting)
        is_told = is_settled(noted, drop.digest, self._settings) and not is_begun
        if is_told and not again:
            self.forget(drop.name)
            return None
        now = self._clock()
        each = self.waiting.setdefault(drop.name, Waiting(drop, now))
        if each.drop.digest != drop.digest:
            each.tries, each.look_again, each.is_growing = 0, now, True
        elif drop.is_marked and not each.drop.is_marked:  # it has come since the last look
            each.look_again = now
        each.drop = drop
        if each.look_again <= now:
            wait = self._readiness.seconds_left(drop)
            each.is_complete, each.look_again = wait == 0, now + wait
            if wait:
                files = counted(drop.files, "file")
                text = (
                    f"{one_line(drop.name)}: {files}, complete in {wait:.0f} s if nothing changes"
                )
                self._say(text, drop=drop.name)
        return each

    def _say_that_nothing_is_new(self, drops: int, refused: Sequence[str]) -> None:
        """What is said by every sweep in a row is said by the first."""
        text = f"{shown(self._settings.input)} holds nothing yet"
        if refused:
            some = ", ".join(map(one_line, refused[:MOST_REFUSED]))
            more = f" and {len(refused) - MOST_REFUSED:,} more" * (len(refused) > MOST_REFUSED)
            text = (
                f"nothing is new: {counted(drops - len(refused), 'drop')} labelled,"
                f" {len(refused):,} refused: {some}{more} (why, says _status.json of each;"
                f" see {shown(join_uri(self._settings.output, DAYS))}, too)"
            )
        elif drops:
            text = f"nothing is new: {counted(drops, 'drop')}, all labelled"
        if text != self._said:
            self._say(text)
        self._said = text
