"""The logbook: what is remembered while replicas come and go, and how far they are.

A replica that was killed can say nothing, so what must outlive it is written down elsewhere: which
shards were begun how often, who died while it loaded the model, and the last words of those that
broke. The driver reads in it how many records are answered, since a shard may take minutes.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from workers.summaries import Pulse, ShardKey

TELL_SECONDS = 1.0
"""Between two words of a replica on how far it is."""
MAX_SETUP_DEATHS = 2
"""Workers in a row that die while they load the model; after a third one the run ends."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What has become of a shard before this start of it."""

    times: int
    """that it was begun, this time included"""
    last_words: str | None = None
    """of the replica that was the last to break over it; those that are killed say nothing"""
    closed: bool = False
    """nothing more is begun, this shard neither"""


class Logbook(Protocol):
    """What a replica writes down; one book for all of them."""

    def setup_begins(self) -> int:
        """Notes that this replica begins to load the model.

        Returns:
            How many of the run died over that since one was last done with it.
        """

    def setup_ends(self, loaded: bool) -> None:
        """Notes that this replica has loaded the model, or can say why not."""

    def answered(self, records: Mapping[ShardKey, int]) -> None:
        """Notes how many records of these shards are done; waits for nobody."""

    async def begin(self, key: ShardKey) -> Begun:
        """Notes that a replica begins a shard."""

    async def broke(self, keys: Collection[ShardKey], why: str) -> None:
        """Notes why a replica ends itself that has these shards at hand."""


class Book:
    """The one book that all replicas write in, each as `worker`; see `Logbook`."""

    def __init__(self) -> None:
        self._counts = Counter[ShardKey]()
        self._last_words: dict[ShardKey, str] = {}
        self._loading: set[str] = set()
        self._setup_deaths = 0
        self._ready = set[str]()
        self._records: dict[ShardKey, int] = {}
        self._closed = False

    def setup_begins(self, worker: str) -> int:
        """Counts those that died: who begins again was killed, and only its name is the same."""
        self._setup_deaths += worker in self._loading
        self._loading.add(worker)
        return self._setup_deaths

    def setup_ends(self, worker: str, loaded: bool) -> None:
        """Ends the row of deaths."""
        self._loading.discard(worker)
        self._setup_deaths = 0
        if loaded:
            self._ready.add(worker)

    def answered(self, records: Mapping[ShardKey, int]) -> None:
        """The newest count of a shard stands: an attempt may begin it again."""
        self._records.update(records)

    def pulse(self) -> Pulse:
        """How far all replicas are."""
        kept = len(self._ready | self._loading)
        return Pulse(len(self._ready), sum(self._records.values()), kept)

    def close(self) -> None:
        """From now on no shard is begun."""
        self._closed = True

    def begin(self, key: ShardKey) -> Begun:
        """Counts the start, unless the book is closed."""
        if self._closed:
            return Begun(self._counts[key], closed=True)
        self._counts[key] += 1
        return Begun(self._counts[key], self._last_words.get(key))

    def broke(self, keys: Collection[ShardKey], why: str) -> None:
        """Keeps the last words, for whoever begins these shards next."""
        self._last_words.update(dict.fromkeys(keys, why))


class Teller:
    """Tells how many records are done, in few words: the newest counts, once a second.

    Args:
        send: takes shards with the records of each that are done.
    """

    def __init__(self, send: Callable[[Mapping[ShardKey, int]], None]) -> None:
        self._send = send
        self._unsaid: dict[ShardKey, int] = {}
        self._next = 0.0

    def __call__(self, key: ShardKey, records: int) -> None:
        """Takes in a shard's count; see `Workbench.tell`."""
        self._unsaid[key] = records
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self) -> None:
        """Sends what hasn't been sent."""
        self._next = time.monotonic() + TELL_SECONDS
        if self._unsaid:
            self._send(self._unsaid)
            self._unsaid = {}
