"""The watcher: has drops labelled that are new or changed, until it is told to stop.

    sweep or event -> backlog -> complete? -> lease -> wave

An event only makes the watcher look at one drop at once. All that must be remembered lies in the
output, so that a watcher may be killed at any moment: its lease expires, and the next one goes on
with what is committed.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

from workers.driver import label_runs
from workers.logs import Level
from workers.markdown import one_line
from workers.progress import Progress
from workers.stopping import Stop
from workers.storage.objects import Store
from workers.watching.backlog import Backlog, Waiting
from workers.watching.cursor import Cursor
from workers.watching.days import QUEUE, Days
from workers.watching.drops import Drop
from workers.watching.gone import Gone
from workers.watching.heartbeat import beating
from workers.watching.leases import BEATS, Lease, Leases, beat_all, release_all
from workers.watching.messages import VISIBILITY_SECONDS, Queue
from workers.watching.news import News
from workers.watching.patience import SHORTEST_STEP, Patience, back_off
from workers.watching.settings import WatchSettings
from workers.watching.status import State
from workers.watching.telling import Teller
from workers.watching.waves import LabelRuns, Waves
from workers.wording import counted

POLL_SECONDS = 20.0
"""Of one question to a queue at most; SQS waits no longer."""
MOST_NAMED = 20
"""Of the drops that a watcher leaves when it ends."""


class Watcher:
    """Finds and labels drops until it is told to stop or, if only once, nothing is left.

    Args:
        store: where everything lies.
        settings: with GPUs and precision settled.
        progress: hears of all that happens.
        stop: what ends the watching.
        queue: that tells of what is new; without one, sweeps find it.
        label: labels runs; see `workers.driver.label_runs`.
        clock: seconds, never set back.
    """

    def __init__(
        self,
        store: Store,
        settings: WatchSettings,
        progress: Progress,
        stop: Stop,
        queue: Queue | None = None,
        label: LabelRuns = label_runs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._stop, self._clock = settings, stop, clock
        self._say = progress.say
        self._cursor = cursor = Cursor(store, settings.output)
        self._leases = Leases(store, settings.output, settings.lease_seconds, clock)
        self._between_beats = settings.lease_seconds / BEATS
        """seconds, after which there may be something new of what another watcher has in hand"""
        teller = Teller(store, Days(store, settings.output), progress.say)
        gone = Gone(store, settings, cursor, self._leases, teller)
        self.backlog = Backlog(store, settings, cursor, gone, teller, stop, clock)
        self._waves = Waves(store, settings, cursor, teller, progress, stop, label)
        self.patience = Patience(settings.once, stop, progress.say, clock)
        tell = partial(teller.tell_by_page, QUEUE, source=settings.queue_url or "")
        self.news = News(queue, settings.input, cursor, self._say, tell, stop) if queue else None
        self._named = set[str]()
        """by the news, once: drops to look at, until a look has succeeded"""
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
        beats = [self._beat]
        hold = self._settings.lease_seconds
        if self.news:
            self.news.check()
            beats.append(self.news.prolong)
            hold = min(hold, VISIBILITY_SECONDS)
        with beating(hold / BEATS, beats, self._say, self._stop.ask):
            while not self._stop.reason:
                with self.patience.about("store"):
                    self.backlog.look()
                    self.label()
                if self._settings.once and self._is_through():
                    break
                self.hear()
        self._say_how_it_ends()

    def is_anything_left(self) -> bool:
        """That this watcher will come to: not what failed, nor what another one is doing."""
        waiting = self.backlog.waiting.values()
        heard = bool(self._named) or self.patience.is_troubled
        return heard or any(not each.why_later for each in waiting)

    def _say_how_it_ends(self) -> None:
        """And what is left: to the next watcher, or the next time."""
        if stopped := self._stop.reason:
            self._say(f"{stopped}: the watcher ends; what is done is kept")
        waiting = sorted(self.backlog.waiting.items())
        for name, each in waiting[:MOST_NAMED]:
            why = "the watcher ends" if stopped else each.why_later
            level = Level.ERROR if each.tries and not stopped else Level.INFO
            text = f"{one_line(name)}: left for another time, since {why}"
            self._say(text, level, drop=name)
        if len(waiting) > MOST_NAMED:
            self._say(f"and {counted(len(waiting) - MOST_NAMED, 'drop')} more, likewise")

    # ---- what is done ----

    def label(self) -> None:
        """Labels what is complete and in nobody else's hand, wave after wave."""
        while not self._stop.reason:
            try:
                if not (drops := self._lease_drops()):
                    return
                self._run_wave(drops)
            finally:
                release_all(self._in_hand.values())
                self._in_hand.clear()

    def _run_wave(self, drops: Sequence[tuple[Drop, Lease]]) -> None:
        try:
            for drop, state in self._waves.run(drops):
                del self._in_hand[drop.name]
                self._account(drop, state)
        finally:  # a wave may take hours: who was alive before it may be dead by now
            self._leases.doubt()
            for each in self.backlog.waiting.values():
                each.is_elsewhere = False

    def _lease_drops(self) -> list[tuple[Drop, Lease]]:
        if complete := self.backlog.complete():
            self._cursor.hold()
        for each in complete:
            if self._stop.reason or len(self._in_hand) == self._settings.drops_at_once:
                break  # each drop that is taken in hand costs requests
            self._lease_one(each)
        waiting = self.backlog.waiting
        return [(waiting[name].drop, lease) for name, lease in self._in_hand.items()]

    def _lease_one(self, each: Waiting) -> None:
        name = each.drop.name
        lease = self._leases.acquire(name)
        each.is_elsewhere = lease is None and self._leases.is_alive(name)
        if lease is None:
            self.backlog.put_off(each, self._between_beats)
            return
        self._in_hand[name] = lease  # first of all, so that it is given back whatever happens
        # what was complete when it was found may have grown since, or another one was first
        found = self.backlog.look_at(name)
        if found is None or not found.is_complete:
            self._in_hand.pop(name).release()

    def _account(self, drop: Drop, state: State) -> None:
        """What became of a drop: done with, or to be tried again some time."""
        if state not in (State.UNFINISHED, State.LABELLING):
            self.backlog.forget(drop.name)
            return
        each, wait = self.backlog.waiting[drop.name], self._between_beats
        if state is State.UNFINISHED:
            each.tries += 1
            wait = back_off(each.tries)
        self.backlog.put_off(each, wait)

    def _beat(self) -> None:
        beat_all(list(self._in_hand.values()))

    # ---- what is waited for ----

    def hear(self) -> None:
        """Waits for what comes first: a message, a drop that may be complete, the next sweep."""
        wait = min(max(self.backlog.next_look - self._clock(), 0.0), POLL_SECONDS)
        if self.news is None or self.patience.is_deaf:
            self.patience.sleep(max(wait, SHORTEST_STEP))
            return
        self._listen(self.news, wait)

    def _is_through(self) -> bool:
        """Whether nothing is left, also when the queue was asked for what it has by now.

        What a sweep has found without the queue is told by messages, too: these are done with.
        """
        if self.news and not self.is_anything_left() and not self.patience.is_deaf:
            self._listen(self.news, 0)
        return not self.is_anything_left()

    def _listen(self, news: News, wait: float) -> None:
        waiting = self.backlog.waiting
        wait = 0 if self._named else wait
        with self.patience.about("queue"), self.patience.about("news"):
            # whole seconds, and never none: a queue that is asked all the time costs money
            self._named |= news.receive(max(1, math.ceil(wait)), waiting.keys())
            for name in sorted(self._named):
                self.backlog.look_at(name)
                self._named.remove(name)
            news.acknowledge(waiting.keys(), self.unfinished)
            if news.is_full:  # then it was not waited for
                self.patience.sleep(max(wait, SHORTEST_STEP))
