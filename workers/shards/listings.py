"""Listings: the images of a plan, a line each, which shards refer to by place and length.

A plan keeps them until its run begins: a run that is refused leaves nothing behind.
"""

from collections.abc import Callable
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from weakref import finalize

from workers.shards.images import SPOOL_BYTES
from workers.storage.objects import Store
from workers.storage.uris import join_uri

ListingWriter = Callable[[bytes], str]
"""Stores a piece of a plan and returns the URI to read it from."""


class WaitingListings:
    """Takes listings, and stores them when it is told to.

    Args:
        folder: where they will lie.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lengths: list[int] = []
        self._spool = SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - see below
        finalize(self, self._spool.close)  # a refusal may throw a plan away anywhere

    def keep(self, text: bytes) -> str:
        """A `ListingWriter`; what it names is there once `store_in` was called."""
        self._lengths.append(len(text))
        self._spool.write(text)
        return listing_uri(self._folder, text)

    def store_in(self, store: Store) -> None:
        """Stores what is kept; again, and nothing is written."""
        write = write_listings_to(store, self._folder)
        self._spool.seek(0)
        for length in self._lengths:
            write(self._spool.read(length))


def write_listings_to(store: Store, folder: str) -> ListingWriter:
    """A writer that names each piece by its content: the same plan gives the same objects.

    A piece that is there already is left alone: a run that uses it may be under way.
    """

    def write(text: bytes) -> str:
        uri = listing_uri(folder, text)
        if not store.find(uri):
            store.put(uri, text)
        return uri

    return write


def listing_uri(folder: str, text: bytes) -> str:
    """Where a piece lies in a folder of listings."""
    return join_uri(folder, f"{sha256(text).hexdigest()[:20]}.jsonl")
