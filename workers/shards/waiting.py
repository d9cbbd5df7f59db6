"""Listings of a plan whose run has not begun: a run that is refused leaves nothing behind."""

from tempfile import SpooledTemporaryFile
from weakref import finalize

from workers.shards.listing import SPOOL_BYTES, listing_uri, write_listings_to
from workers.storage.objects import Store


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
