"""Leases: who has a drop in hand, for all to see, so that two watchers share a prefix.

    OUTPUT/_watch/leases/<drop>/00000007.json    the seventh lease of this drop

A lease is a number that only one watcher can create. Its holder writes it again and again with
another beat; at the end, as released. Whoever sees the same beat for longer than the lease says
acquires the next number. No clock is compared with another one's: only the beat counts, and the
time between two looks of one watcher.

A lease saves work, and decides nothing: a holder that was frozen and goes on beside its successor
commits the same shards under the same names, and of each the first commit counts
(`workers.labels.commits`).
"""

import math
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from workers.errors import ConditionUnsupported, LineError, ObjectMissing, StorageError
from workers.labels.commits import JsonFile
from workers.storage.objects import Store
from workers.storage.uris import join_uri
from workers.watching.cursor import WATCH

LEASES = "leases"
PATIENCE = 1.5
"""Times the lease's own seconds: a beat that is late by half is no death."""
BEATS = 3
"""In the seconds of a lease: two may be lost."""
AT_ONCE = 16
"""Leases that beat, or are released, side by side: a store that takes seconds to answer must not
cost the last of many its lease."""


@dataclass(frozen=True, slots=True)
class Hold(JsonFile):
    """What stands in a lease."""

    holder: str
    seconds: float
    """without a new beat, after which others may take over"""
    beat: int = 0
    released: bool = False


@dataclass(frozen=True, slots=True)
class _Newest:
    number: int
    hold: Hold | None
    """None where it can't be read: it is being removed"""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a watcher has seen of a lease that is another's."""

    number: int
    beat: int
    since: float
    """when this beat was seen first"""
    looked: float
    """when it was looked at last"""
    alive: float = -math.inf
    """its holder was, at some time after this one: then, the lease had another beat"""


class Lease:
    """A drop in this watcher's hand.

    Args:
        store: where it lies.
        drop: its name.
        uri: of the lease.
        hold: what stands in it.
        clock: seconds, never set back.
        beaten: when it was about to be written, by this clock.
    """

    def __init__(
        self,
        store: Store,
        drop: str,
        uri: str,
        hold: Hold,
        clock: Callable[[], float],
        beaten: float,
    ) -> None:
        self.drop = drop
        self._store, self._uri, self._hold, self._clock = store, uri, hold, clock
        self._beaten = beaten
        self._lock = threading.Lock()

    @property
    def holder(self) -> str:
        """Which watcher this is: its machine, its process, and a number of its own."""
        return self._hold.holder

    @property
    def is_lost(self) -> bool:
        """Whether others may have taken over by now."""
        return self._clock() - self._beaten > self._hold.seconds

    def beat(self) -> None:
        """Says that its holder is alive; a store that is away for a moment is forgiven."""
        with self._lock:
            if self._hold.released or self.is_lost:  # a late word must not wake a lost lease
                return
            now = self._clock()  # others may see the beat long before the answer is here
            try:
                self._hold = replace(self._hold, beat=self._hold.beat + 1)
                self._store.put(self._uri, self._hold.to_json())
            except StorageError:
                return
            self._beaten = now

    def release(self) -> None:
        """Lets the drop go; where that fails, the lease expires."""
        with self._lock:
            if self._hold.released or self.is_lost:
                return
            self._hold = replace(self._hold, released=True)
            try:
                self._store.put(self._uri, self._hold.to_json())
            except StorageError:
                return


def beat_all(leases: Iterable[Lease]) -> None:
    """Says of many leases that their holder is alive, of some at the same time.

    In a wave of 1,000 drops and at 0.1 s an answer that takes 6 s, and one after the other 100 s,
    which no lease of a minute outlasts.

    Args:
        leases: any number.
    """
    _all_of(leases, Lease.beat)


def release_all(leases: Iterable[Lease]) -> None:
    """Lets many drops go, some at the same time: a watcher that is asked to end has seconds.

    Args:
        leases: any number.
    """
    _all_of(leases, Lease.release)


def _all_of(leases: Iterable[Lease], do: Callable[[Lease], None]) -> None:
    """Does it to all, whatever fails with some; what failed first is raised in the end.

    Not by an executor: Python waits for the threads of one before it ends, and a store that hangs
    would keep a watcher from its end for minutes.
    """
    left, failed = deque(leases), list[Exception]()

    def work() -> None:
        with suppress(IndexError):
            while True:
                lease = left.popleft()
                try:
                    do(lease)
                except Exception as error:  # raised below, in the thread that waits
                    failed.append(error)

    count = min(AT_ONCE, len(left))
    threads = [threading.Thread(target=work, name="leases", daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


class Leases:
    """Acquires leases for one watcher.

    Args:
        store: where the output lies; it must honour conditional writes, else two watchers may both
            get a lease.
        output: of the watcher.
        seconds: of each lease.
        clock: seconds, never set back.
    """

    def __init__(
        self,
        store: Store,
        output: str,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._store, self._output, self._seconds, self._clock = store, output, seconds, clock
        self._seen: dict[str, _Seen] = {}
        """by drop"""
        self._trusted = clock()
        """what was seen before is too old to say that a holder is alive"""

    def acquire(self, drop: str) -> Lease | None:
        """The lease of a drop; None while somebody else has it, or may have."""
        newest = self._newest(drop)
        if newest is not None and not self._is_free(drop, newest):
            return None
        number = newest.number + 1 if newest else 1
        hold = Hold(self.holder, self._seconds)
        uri, now = self._uri(drop, number), self._clock()
        if not self._create(uri, hold.to_json()):
            return None
        # A number is free again once it was removed: only the highest one is a lease.
        numbers = self._numbers(drop)
        if numbers[-1:] != [number]:
            self._store.delete(uri)
            return None
        for old in numbers[:-1]:
            self._store.delete(self._uri(drop, old))
        self._seen.pop(drop, None)
        return Lease(self._store, drop, uri, hold, self._clock, now)

    def _create(self, uri: str, data: bytes) -> bool:
        try:
            return self._store.put_if_absent(uri, data)
        except ConditionUnsupported:  # of two in the same moment, mostly one reads its own
            self._store.put(uri, data)
            return self._store.get(uri) == data

    def is_alive(self, drop: str) -> bool:
        """Whether the holder that kept this watcher from a drop was seen to beat, and lately."""
        seen = self._seen.get(drop)
        return seen is not None and seen.alive >= self._trusted

    def doubt(self) -> None:
        """Says that time has passed in which a holder may have died that was seen to be alive.

        Only a beat that is new since now says that it has not; how long each was silent still
        counts.
        """
        self._trusted = self._clock()

    def _is_free(self, drop: str, newest: _Newest) -> bool:
        """Whether a lease is released, or has not beaten for long."""
        hold, now = newest.hold, self._clock()
        if hold is None:
            return False
        if hold.released:
            return True
        new = _Seen(newest.number, hold.beat, since=now, looked=now)
        before = self._seen.get(drop, new)
        if before.number != new.number:
            self._seen[drop] = new
        elif before.beat != new.beat:
            self._seen[drop] = replace(new, alive=before.looked)
        else:
            self._seen[drop] = replace(before, looked=now)
            return now - before.since > PATIENCE * hold.seconds
        return False

    def _newest(self, drop: str) -> _Newest | None:
        numbers = self._numbers(drop)
        if not numbers:
            return None
        uri = self._uri(drop, numbers[-1])
        try:
            return _Newest(numbers[-1], Hold.from_json(self._store.get(uri), uri))
        except ObjectMissing:
            return _Newest(numbers[-1], None)
        except StorageError:
            raise
        except LineError:  # what stands in it is no lease: as good as silent
            return _Newest(numbers[-1], Hold("", self._seconds))

    def _numbers(self, drop: str) -> list[int]:
        infos = self._store.list(join_uri(self._output, WATCH, LEASES, drop))
        names = (info.uri.rpartition("/")[2].removesuffix(".json") for info in infos)
        return sorted(int(name) for name in names if name.isdecimal())

    def _uri(self, drop: str, number: int) -> str:
        return join_uri(self._output, WATCH, LEASES, drop, f"{number:08}.json")
