"""Room for a folder: those that were used longest ago go, and never one that is in use.

When a folder was last used is the time of its lock.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workers.errors import SettingsError, StorageError
from workers.staging.locks import alone, alone_at_once
from workers.staging.receipts import Receipt, read_receipt

GIB = 2**30
SHELVES = ("models", "adapters")
"""Folders of the cache that folders are staged in."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one folder is staged, and all that belongs to it."""

    shelf: Path
    key: str

    @property
    def folder(self) -> Path:
        """Whole and checked, when it is there."""
        return self.shelf / self.key

    @property
    def half(self) -> Path:
        """The same while it is fetched."""
        return self.shelf / f".{self.key}.half"

    @property
    def receipt(self) -> Path:
        """What it is made of."""
        return self.shelf / f"{self.key}.json"

    @property
    def lock(self) -> Path:
        """Held by whoever changes anything of it."""
        return self.shelf / f"{self.key}.lock"

    @property
    def use(self) -> Path:
        """Shared by whoever reads it."""
        return self.shelf / f"{self.key}.use"

    @property
    def bytes_here(self) -> int:
        """That it takes on the disk now."""
        # `os.walk`, since a half that is whole now has another name while this looks
        found = (walked for top in (self.folder, self.half) for walked in os.walk(top))
        return sum(_size(Path(folder, name)) for folder, _, names in found for name in names)

    @property
    def bytes_whole(self) -> int:
        """That it takes when it is whole."""
        receipt = read_receipt(self.receipt)
        return max(self.bytes_here, receipt.bytes if receipt else 0)


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of this machine for what comes from buckets."""

    folder: Path
    most_bytes: int | None = None
    """of all that is staged in it; None: as much as the disk holds"""

    def places(self) -> Iterator[Place]:
        """All that is staged, or is being staged."""
        for shelf in (self.folder / name for name in SHELVES):
            receipts = shelf.glob("*.json") if shelf.is_dir() else ()
            yield from (Place(shelf, path.stem) for path in sorted(receipts))


def make_room(cache: Cache, place: Place, receipt: Receipt, what: str) -> None:
    """Removes others until a folder fits; called with its lock in hand.

    Args:
        cache: to make room in.
        place: of the folder.
        receipt: of the folder.
        what: it is, for a message.

    Raises:
        SettingsError: the limit is too small for it, and for what is in use.
        StorageError: the disk is.
    """
    with alone(cache.folder / "room.lock"):
        error = _why_too_little(cache, place, receipt, what)
        for other in sorted(_others(cache, place), key=_last_use):
            if error is None or _is_hopeless(cache, receipt):
                break
            _remove_unless_used(other)
            error = _why_too_little(cache, place, receipt, what)
        if error is not None:
            raise error
        place.folder.parent.mkdir(parents=True, exist_ok=True)
        receipt.write(place.receipt)  # from now on others know how much it will take


def _why_too_little(
    cache: Cache, place: Place, receipt: Receipt, what: str
) -> SettingsError | StorageError | None:
    """None when it fits."""
    others = _others(cache, place)
    taken = sum(each.bytes_whole for each in others)
    if cache.most_bytes is not None and taken + receipt.bytes > cache.most_bytes:
        return SettingsError(
            f"{what} takes {_gib(receipt.bytes)}, and --model-cache-gib allows"
            f" {_gib(cache.most_bytes)}, of which {_gib(taken)} are in use by others: allow more"
        )
    coming = sum(max(0, each.bytes_whole - each.bytes_here) for each in others)
    needed = receipt.bytes - place.bytes_here
    free = shutil.disk_usage(_existing(cache.folder)).free
    if needed + coming > free:
        return StorageError(
            f"{what} needs {_gib(needed)} more in {str(cache.folder)!r}, where {_gib(free)} are"
            f" free and {_gib(coming)} of them are spoken for: free some, or give another disk"
            " (--model-cache)"
        )
    return None


def _is_hopeless(cache: Cache, receipt: Receipt) -> bool:
    return cache.most_bytes is not None and receipt.bytes > cache.most_bytes


def _size(path: Path) -> int:
    with suppress(OSError):  # it has been removed, or has its name now
        return path.stat().st_size if path.is_file() else 0
    return 0


def _remove_unless_used(place: Place) -> None:
    """Its lock files stay: who waits for one that is removed would hold another than the next."""
    with alone_at_once(place.lock) as unchanged, alone_at_once(place.use) as unread:
        if unchanged and unread:
            for folder in (place.folder, place.half):
                shutil.rmtree(folder, ignore_errors=True)
            place.receipt.unlink(missing_ok=True)


def _others(cache: Cache, place: Place) -> list[Place]:
    return [each for each in cache.places() if each != place]


def _last_use(place: Place) -> float:
    return place.lock.stat().st_mtime if place.lock.exists() else 0.0


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _gib(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count > GIB / 10 else f"{count / 2**20:,.1f} MiB"
