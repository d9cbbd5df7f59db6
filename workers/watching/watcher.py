"""The watcher: has drops labelled that are new or changed, until it is told to stop.

    sweep or event -> backlog -> complete? -> lease -> wave

An event only makes the watcher look at one drop at once. All that must be remembered lies in the
output, so that a watcher may be killed at any moment: its lease expires, and the next one goes on
with what is committed.
"""

import math
import time
from collections.abc import Callable

from workers.driver import label_runs
from workers.progress import Progress
from workers.stopping import Stop
from workers.storage.objects import Store
from workers.watching.backlog import Backlog, Waiting
from workers.watching.cursor import Cursor
from workers.watching.days import QUEUE, Days
from workers.watching.drops import Drop
from workers.watching.event_queue import VISIBILITY_SECONDS
from workers.watching.heartbeat import beating
from workers.watching.leases import BEATS, Lease, Leases
from workers.watching.news import listen
from workers.watching.patience import SHORTEST_STEP, Patience, back_off
from workers.watching.settings import WatchSettings
from workers.watching.status import State
from workers.watching.waves import LabelRuns, Wave

POLL_SECONDS = 20.0
"""Of one question to a queue at most; SQS waits no longer."""


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
        self._settings, self._stop, self._clock = settings, stop, clock
        self._say = progress.say
        self._cursor, self._days = Cursor(store, settings.output), Days(store, settings.output)
        self._leases = Leases(store, settings.output, settings.lease_seconds, clock)
        self.backlog = Backlog(
            store, settings, self._cursor, self._days, self._leases, progress, stop, clock
        )
        self._wave = Wave(store, settings, self._cursor, self._days, progress, stop, label)
        self.patience = Patience(settings.once, stop, progress.say, clock)
        self._news = listen(settings, self._cursor, progress.say, self._note_message)
        self._in_hand: dict[str, Lease] = {}

    @property
    def unfinished(self) -> list[str]:
        """Drops whose last try left something to do."""
        return sorted(name for name, each in self.backlog.waiting.items() if each.tries)

    def watch(self) -> None:
        """Works until there is a reason to stop or, if only once, nothing is left to do.

        Raises:
            LineError: nothing can be begun, and waiting will not help.
        """
        beats = [self._beat, *([self._news.prolong] if self._news else [])]
        hold = self._settings.lease_seconds
        if self._news:
            hold = min(hold, VISIBILITY_SECONDS)
        with beating(hold / BEATS, beats, self._say):
            while not self._stop.reason:
                with self.patience.about("store"):
                    self.backlog.look()
                    self.label()
                if self._settings.once and not self.is_anything_left():
                    self._say_what_is_left()
                    break
                self.hear()
        if self._stop.reason:
            self._say(f"{self._stop.reason}: the watcher ends; what is done is kept")

    def is_anything_left(self) -> bool:
        """That this watcher will come to: not what failed, nor what another one is doing."""
        waiting = self.backlog.waiting.values()
        return self.patience.is_troubled or any(not each.why_later for each in waiting)

    def _say_what_is_left(self) -> None:
        """To the next watcher, or the next time."""
        for name, each in self.backlog.waiting.items():
            self._say(f"{name}: left for another time, since {each.why_later}")

    # ---- what is done ----

    def label(self) -> None:
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
        for each in self.backlog.complete():
            if len(self._in_hand) == self._settings.drops_at_once:
                break
            self._take_one(each)
        waiting = self.backlog.waiting
        return [(waiting[name].drop, lease) for name, lease in self._in_hand.items()]

    def _take_one(self, each: Waiting) -> None:
        name = each.drop.name
        lease = self._leases.take(name)
        if lease is None:
            each.is_elsewhere = self._leases.is_alive(name)
            self.backlog.put_off(each, self._settings.lease_seconds / BEATS)
            return
        self._in_hand[name] = lease  # first of all, so that it is given back whatever happens
        settled = self.backlog.is_settled(each.drop, self._cursor.of(name))
        if settled and not self._settings.refresh:
            self._in_hand.pop(name).release()  # another one was first
            self.backlog.forget(name)

    def _account(self, drop: Drop, state: State) -> None:
        """What became of a drop: done with, or to be tried again some time."""
        if state not in (State.UNFINISHED, State.LABELLING):
            self.backlog.forget(drop.name)
            return
        each, wait = self.backlog.waiting[drop.name], self._settings.lease_seconds / BEATS
        if state is State.UNFINISHED:
            each.tries += 1
            wait = back_off(each.tries)
        self.backlog.put_off(each, wait)

    def _beat(self) -> None:
        for lease in list(self._in_hand.values()):
            lease.beat()

    # ---- what is waited for ----

    def hear(self) -> None:
        """Waits for what comes first: a message, a drop that may be complete, the next sweep."""
        wait = min(max(self.backlog.next_look - self._clock(), 0.0), POLL_SECONDS)
        if self._news is None or self.patience.is_deaf:
            self.patience.sleep(max(wait, SHORTEST_STEP))
            return
        waiting = self.backlog.waiting
        with self.patience.about("queue"), self.patience.about("news"):
            # whole seconds, and never none: a queue that is asked all the time costs money
            for name in self._news.receive(max(1, math.ceil(wait))) - waiting.keys():
                self.backlog.look_at(name)
            self._news.settle(waiting.keys(), self.unfinished)
            if self._news.is_full:  # then it was not waited for
                self.patience.sleep(max(wait, SHORTEST_STEP))

    def _note_message(self, text: str) -> None:
        self._days.note_by_itself(QUEUE, text, source=self._settings.queue_url or "")
