"""Whether a file is still the one that was planned."""

from workers.errors import StorageError
from workers.shards.plan import Shard
from workers.storage.objects import Store
from workers.storage.uris import shown


def check_planned(shard: Shard, store: Store) -> None:
    """Byte ranges and row numbers mean the planned records only in the file that was planned.

    Raises:
        StorageError: it is another one by now, or the store failed.
    """
    if store.stat(shard.uri).etag != shard.etag:
        raise StorageError(
            f"{shown(shard.uri)} changed since the run was planned; start the same command again,"
            " it will plan anew"
        )
