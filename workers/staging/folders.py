"""A folder of a bucket on this machine: whole and checked, or not there.

    CACHE/models/KEY          the folder, once all its files are right
    CACHE/models/.KEY.half    the same while it is fetched; whoever comes next goes on with it
    CACHE/models/KEY.json     its receipt
    CACHE/models/KEY.lock     held alone by whoever fetches, mends or removes it
    CACHE/models/KEY.use      shared by the processes that read it, until they end

Killed at any moment, a process leaves what it has fetched, and no lock.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from workers.errors import StorageError
from workers.staging.files import bring_file
from workers.staging.locks import alone, share_for_life
from workers.staging.receipts import Receipt, StagedFile, read_receipt
from workers.staging.room import Cache, Place, make_room
from workers.storage.objects import ObjectInfo, Store

FETCHERS = 4  # files at once; the weights of a 7B model are four files


def stage_folder(
    store: Store, files: Mapping[str, ObjectInfo], shelf: str, cache: Cache, what: str
) -> Path:
    """The folder on this machine; nobody removes it while this process lives.

    Args:
        store: where the files are.
        files: versions of objects, by their names in the folder.
        shelf: of the cache, one of `workers.staging.room.SHELVES`.
        cache: where to.
        what: it is, for a message: `--model 's3://...'`.

    Raises:
        StorageError: a file can't be fetched, arrives damaged, or doesn't fit on the disk.
        SettingsError: it doesn't fit beside what is in use.
    """
    receipt = Receipt.of(files)
    place = Place(cache.folder / shelf, receipt.key)
    with _told(cache.folder), alone(place.lock):
        os.utime(place.lock)
        known = read_receipt(place.receipt)
        if known is None or not known.is_untouched(place.folder):
            _make_whole(store, known or receipt, place, cache, what)
        share_for_life(place.use)
    return place.folder


def _make_whole(store: Store, receipt: Receipt, place: Place, cache: Cache, what: str) -> None:
    """Fetches what is missing or damaged; others may be reading what is there."""
    make_room(cache, place, receipt, what)
    into = place.folder if place.folder.is_dir() else place.half
    for name in receipt.files:
        (into / name).parent.mkdir(parents=True, exist_ok=True)

    def bring(name: str) -> tuple[str, StagedFile]:
        return name, bring_file(store, receipt.files[name], into / name)

    with ThreadPoolExecutor(FETCHERS) as pool:
        checked = dict(pool.map(bring, receipt.files))
    replace(receipt, files=checked).write(place.receipt)
    if into == place.half:
        into.rename(place.folder)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Puts what the disk says into the tree of `workers.errors`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{str(folder)!r} can't take what is fetched: {error.strerror or error}. Free some"
            " room there, or give another folder (--model-cache)"
        ) from error
