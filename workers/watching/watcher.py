"""The watcher: looks for drops that are new or changed, and has them labelled.

    sweep or event -> drops that differ from what is labelled -> complete? -> lease -> wave

A sweep lists the whole input and is right even if every event is lost; an event makes the watcher
look at one drop at once. All that must be remembered lies in the output, so that a watcher may be
killed at any moment: its lease expires, and the next one goes on with what is committed.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from workers.driver import label_runs
from workers.errors import LineError, QueueTrouble, SettingsError, StorageUnavailable
from workers.markdown import one_line
from workers.progress import Progress, Say, counted
from workers.stopping import Stop
from workers.storage.objects import Store
from workers.storage.uris import join_uri, written
from workers.watching.days import QUEUE, Days
from workers.watching.drops import Drop, find_drops, look_at, why_unfit
from workers.watching.event_queue import VISIBILITY_SECONDS, EventQueue
from workers.watching.heartbeat import beating
from workers.watching.labelled import Changes, Labelled
from workers.watching.leases import BEATS, Lease, Leases
from workers.watching.news import News
from workers.watching.readiness import Readiness
from workers.watching.settings import WatchSettings
from workers.watching.status import DropStatus, State, status_uri
from workers.watching.waves import LabelRuns, Wave

POLL_SECONDS = 20.0
"""Of one question to a queue at most; SQS waits no longer."""
SHORTEST_STEP = 0.5
"""Between two looks at a clock, or whether the watcher was asked to end."""
FIRST_WAIT, LONGEST_WAIT = 5.0, 600.0
"""Seconds before something that failed is tried again: doubled each time, up to the longest."""
TRIES_ONCE = 3
"""Of a store that is away, when the watcher is to end by itself."""
PASSING: Mapping[str, type[LineError]] = {
    "store": StorageUnavailable,
    "news": StorageUnavailable,  # the store, too, while messages are looked after
    "queue": QueueTrouble,
}
"""What is waited for, by what it is about."""
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


class Watcher:
    """Finds and labels drops until it is told to stop or, if only once, nothing is left.

    Args:
        store: where everything lies.
        settings: with GPUs and precision settled.
        progress: hears of all that happens.
        stop: what ends the watching.
        label: labels runs; see `workers.driver.label_runs`.
        clock: seconds, never set back.
    """

    def __init__(
        self,
        store: Store,
        settings: WatchSettings,
        progress: Progress,
        stop: Stop,
        label: LabelRuns = label_runs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._settings, self._progress, self._stop = store, settings, progress, stop
        self._clock = clock
        self._labelled = Labelled(store, settings.output)
        self._days = Days(store, settings.output)
        self._wave = Wave(store, settings, self._labelled, self._days, progress, stop, label)
        self._leases = Leases(store, settings.output, settings.lease_seconds, clock)
        self._readiness = Readiness(settings.settle_seconds, clock)
        self._news = _listen(settings, self._labelled, progress.say, self._note_message)
        self._waiting: dict[str, Waiting] = {}
        self._in_hand: dict[str, Lease] = {}
        self._next_sweep, self._deaf_until = clock(), clock()
        self._everything = settings.refresh
        self._sweep_costs = 0
        """requests of a sweep, about: one for each drop that is due may cost more"""
        self._told_unfit: set[str] = set()
        self._troubles = dict.fromkeys(PASSING, 0)
        """in a row, by what it was about"""

    @property
    def unfinished(self) -> list[str]:
        """Drops whose last try left something to do."""
        return sorted(name for name, each in self._waiting.items() if each.tries)

    def watch(self) -> None:
        """Works until there is a reason to stop or, if only once, nothing is left to do.

        Raises:
            LineError: nothing can be begun, and waiting will not help.
        """
        beats = [self._beat, *([self._news.prolong] if self._news else [])]
        hold = self._settings.lease_seconds
        if self._news:
            hold = min(hold, VISIBILITY_SECONDS)
        with beating(hold / BEATS, beats, self._progress.say):
            while not self._stop.reason:
                with self._patience("store"):
                    self._look()
                    self._label()
                if self._settings.once and not self._is_anything_left():
                    break
                self._hear()
        if self._stop.reason:
            self._progress.say(f"{self._stop.reason}: the watcher ends; what is done is kept")

    # ---- what is there ----

    def _look(self) -> None:
        """Looks at what may have changed: at all of it, or at what is waited for."""
        if self._clock() >= self._next_sweep or len(self._due()) > self._sweep_costs:
            self._sweep()
        for each in self._due():
            if self._stop.reason:
                return
            self._look_at(each.drop.name)

    def _due(self) -> list[Waiting]:
        now = self._clock()
        waiting = self._waiting.values()
        return [each for each in waiting if not each.is_complete and each.look_again <= now]

    def _sweep(self) -> None:
        exclude = (self._settings.output,)
        self._labelled.claim(self._settings.input)
        labelled = self._labelled.digests()
        there = list(self._fit(find_drops(self._store, self._settings.input, exclude)))
        if self._stop.reason:  # then these are not all
            return
        for drop in there:
            self._take_note(drop, labelled.get(drop.name))
        gone = (labelled.keys() | self._waiting.keys()) - {drop.name for drop in there}
        for name in sorted(gone):
            self._take_leave(name, was_labelled=name in labelled)
        self._everything = False
        self._sweep_costs = 1 + sum(drop.files for drop in there) // LISTED_AT_ONCE
        self._next_sweep = self._clock() + self._settings.sweep_seconds

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
                self._progress.say(f"{name}: {why}")
                self._note(name, why, source=drop.input)

    def _look_at(self, name: str) -> None:
        drop = look_at(self._store, self._settings.input, name, (self._settings.output,))
        labelled = self._labelled.of(name)
        if drop is None:
            self._take_leave(name, was_labelled=bool(labelled))
        else:
            self._take_note(drop, labelled)

    def _take_note(self, drop: Drop, labelled: frozenset[str] | None) -> None:
        """Of a drop that is there: whether there is something to do, and when."""
        again = self._everything or (self._settings.refresh and drop.name in self._waiting)
        if labelled == frozenset([drop.digest]) and not again:
            self._forget(drop.name)
            return
        now = self._clock()
        each = self._waiting.setdefault(drop.name, Waiting(drop, now))
        if each.drop.digest != drop.digest:
            each.tries, each.look_again = 0, now
        each.drop = drop
        if each.look_again <= now:
            wait = self._readiness.wait_for(drop)
            each.is_complete, each.look_again = wait == 0, now + wait

    def _take_leave(self, name: str, *, was_labelled: bool) -> None:
        """Of a drop that is gone; its labels are kept."""
        self._forget(name)
        if not was_labelled or (lease := self._leases.take(name)) is None:
            return
        try:
            if self._labelled.of(name):  # else another one was first
                self._tell_gone(name)
        finally:
            lease.release()

    def _tell_gone(self, name: str) -> None:
        deleted = tuple(self._labelled.content(name))
        labels = join_uri(self._settings.output, name)
        status = DropStatus.begin(
            name,
            State.GONE,
            f"all of its {counted(len(deleted), 'file')} were deleted; the labels are kept",
            source=join_uri(self._settings.input, name),
            labels=labels,
            changes=Changes(deleted=deleted),
        )
        self._progress.say(f"{one_line(name)}: {status.message}")
        self._store.put(status_uri(labels), status.to_json())
        self._days.note(status)
        self._labelled.forget(name)

    def _forget(self, name: str) -> None:
        self._waiting.pop(name, None)
        self._readiness.forget(name)

    # ---- what is done ----

    def _label(self) -> None:
        """Labels what is complete and in nobody else's hand, wave after wave."""
        while not self._stop.reason:
            try:
                if not (drops := self._take_in_hand()):
                    return
                for drop, state in self._wave.run(drops):
                    del self._in_hand[drop.name]
                    self._account(drop, state)
            finally:
                for lease in self._in_hand.values():
                    lease.release()
                self._in_hand.clear()

    def _take_in_hand(self) -> list[tuple[Drop, Lease]]:
        complete = [each for each in self._waiting.values() if each.is_complete]
        for each in sorted(complete, key=lambda each: each.look_again):
            if len(self._in_hand) == self._settings.drops_at_once:
                break
            self._take_one(each)
        return [(self._waiting[name].drop, lease) for name, lease in self._in_hand.items()]

    def _take_one(self, each: Waiting) -> None:
        name = each.drop.name
        if each.look_again > self._clock():
            return
        lease = self._leases.take(name)
        if lease is None:
            each.is_elsewhere = self._leases.is_alive(name)
            each.look_again = self._clock() + self._settings.lease_seconds / BEATS
            each.is_complete = False  # when it is free again, it may be labelled already
            return
        self._in_hand[name] = lease  # first of all, so that it is given back whatever happens
        if self._labelled.of(name) == {each.drop.digest} and not self._settings.refresh:
            self._in_hand.pop(name).release()  # another one was first
            self._forget(name)

    def _account(self, drop: Drop, state: State) -> None:
        """What became of a drop: done with, or to be tried again some time."""
        if state not in (State.UNFINISHED, State.LABELLING):
            self._forget(drop.name)
            return
        each, wait = self._waiting[drop.name], self._settings.lease_seconds / BEATS
        if state is State.UNFINISHED:
            each.tries += 1
            wait = _back_off(each.tries)
        each.is_complete, each.look_again = False, self._clock() + wait

    def _beat(self) -> None:
        for lease in list(self._in_hand.values()):
            lease.beat()

    # ---- what is waited for ----

    def _is_anything_left(self) -> bool:
        """That this watcher will come to: not what failed, nor what another one is doing."""
        if self._troubles["store"]:  # what is there could not be seen
            return True
        return any(not each.tries and not each.is_elsewhere for each in self._waiting.values())

    def _hear(self) -> None:
        """Waits for what comes first: a message, a drop that may be complete, the next sweep."""
        soon = min([self._next_sweep, *(each.look_again for each in self._waiting.values())])
        wait = min(max(soon - self._clock(), 0.0), POLL_SECONDS)
        if self._news is None or self._clock() < self._deaf_until:
            self._sleep(max(wait, SHORTEST_STEP))
            return
        with self._patience("queue"), self._patience("news"):
            # whole seconds, and never none: a queue that is asked all the time costs money
            for name in self._news.receive(max(1, math.ceil(wait))) - self._waiting.keys():
                self._look_at(name)
            self._news.settle(self._waiting.keys(), self.unfinished)
            if self._news.is_full:  # then it was not waited for
                self._sleep(max(wait, SHORTEST_STEP))

    def _sleep(self, seconds: float) -> None:
        until = self._clock() + seconds
        while not self._stop.reason and self._clock() < until:
            time.sleep(min(SHORTEST_STEP, max(0.0, until - self._clock())))

    @contextmanager
    def _patience(self, about: str) -> Iterator[None]:
        """A store or a queue that is away for a while is waited for, longer each time."""
        try:
            yield
            self._troubles[about] = 0
        except PASSING[about] as error:
            self._troubles[about] += 1
            if about == "queue":  # sweeps go on
                self._deaf_until = self._clock() + self._wait_for(about, error)
            elif self._settings.once and self._troubles[about] >= TRIES_ONCE:
                raise
            else:
                self._sleep(self._wait_for(about, error))

    def _wait_for(self, about: str, error: LineError) -> float:
        wait = _back_off(self._troubles[about])
        self._progress.say(f"{error}; tried again in {wait:.0f} s")
        return wait

    def _note_message(self, text: str) -> None:
        self._note(QUEUE, text, source=self._settings.queue_url or "")

    def _note(self, drop: str, text: str, source: str) -> None:
        """Puts on the page of the day what has no folder of labels."""
        status = DropStatus.begin(drop, State.REFUSED, text, source=source, labels="")
        self._days.note(status)


def _listen(
    settings: WatchSettings, labelled: Labelled, say: Say, tell: Callable[[str], None]
) -> News | None:
    if settings.queue_url is None:
        return None
    news = News(EventQueue(settings.queue_url), settings.input, labelled, say, tell)
    try:
        news.check()
    except QueueTrouble as error:
        raise SettingsError(f"--queue-url can't be used: {error}") from error
    return news


def _back_off(tries: int) -> float:
    """Seconds before something is tried again that failed so many times in a row."""
    doubled = min(tries - 1, 30)  # after a week of them the number itself would be too large
    return min(FIRST_WAIT * 2**doubled, LONGEST_WAIT)
