"""Files of this machine, or of a disk that several machines mount, as a `Store`."""

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from workers.errors import (
    AccessDenied,
    ConditionUnsupported,
    ObjectMissing,
    StorageError,
    StorageUnavailable,
)
from workers.storage.objects import ObjectInfo, Store, Unseen, seen

TEMP_PREFIX = ".tmp-"  # a write that is under way, or whose process was killed
_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


class LocalStore(Store):
    """Files of this machine or of a mounted disk. A URI is an absolute path."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Links are followed."""
        return map(seen, self.walk(prefix))

    def walk(self, prefix: str) -> Iterator[ObjectInfo | Unseen]:
        """A disk that doesn't answer is raised: nobody knows what is on it."""
        for found in self._walk(Path(prefix), ()):
            if isinstance(found, Unseen) and isinstance(found.error, StorageUnavailable):
                raise found.error
            yield found

    def _walk(self, folder: Path, above: tuple[Path, ...]) -> Iterator[ObjectInfo | Unseen]:
        """Depth first. A folder sorts as its name and "/": that is the order of whole paths."""
        try:
            with _told(folder):
                real, names = folder.resolve(), _names_in(folder)
        except ObjectMissing:
            return
        except StorageError as error:
            yield Unseen(f"{folder}/", error)
            return
        if real in above:  # a link to a folder above would be walked for ever
            return
        for name in map(os.fsdecode, names):
            if name.endswith("/"):
                yield from self._walk(folder / name, (*above, real))
            elif not name.startswith(TEMP_PREFIX):
                yield from self._look_at(f"{folder / name}")

    def _look_at(self, uri: str) -> Iterator[ObjectInfo | Unseen]:
        """A file; nothing where it is none, or was deleted since its folder was read."""
        try:
            info = self.stat(uri)
        except ObjectMissing:
            return
        except StorageError as error:
            yield Unseen(uri, error)
            return
        yield info

    def stat(self, uri: str) -> ObjectInfo:
        """The etag is size and mtime, since hashing a file would read it."""
        path = Path(uri)
        with _told(path):
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise ObjectMissing(f"{uri!r} is not a file")
        return ObjectInfo(uri, found.st_size, f"{found.st_size:x}-{found.st_mtime_ns:x}")

    def get(self, uri: str, start: int = 0, length: int | None = None) -> bytes:
        with _told(Path(uri)), self.open(uri) as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def open(self, uri: str) -> BinaryIO:
        with _told(Path(uri)):
            # else the other end of a pipe would be waited for, for ever
            file = os.fdopen(os.open(uri, os.O_RDONLY | os.O_NONBLOCK), "rb")
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            file.close()
            raise ObjectMissing(f"{uri!r} is not a file")

    def put(self, uri: str, data: bytes) -> ObjectInfo:
        """A crash at any moment leaves the old file or the new one."""
        path = Path(uri)
        with _told(path), _written_aside(path, data) as temporary:
            temporary.replace(path)
            _sync_folder(path.parent)
        return self.stat(uri)

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """By a hard link, which is refused when the name is taken."""
        path = Path(uri)
        with _told(path), _written_aside(path, data) as temporary:
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                # NFS repeats a request whose answer got lost and then finds its own link.
                return temporary.stat().st_nlink == 2
            except OSError as error:
                if error.errno in _NO_LINKS:
                    raise ConditionUnsupported(f"no hard links in {str(path.parent)!r}") from error
                raise
            _sync_folder(path.parent)
        return True

    def delete(self, uri: str) -> None:
        with _told(Path(uri)):
            Path(uri).unlink(missing_ok=True)


def _names_in(folder: Path) -> list[bytes]:
    """Of all that a folder holds, in the order of whole paths: folders have a "/" behind.

    There may be millions. What the system tells of each would take several times their memory, and
    names as texts, beside the bytes that they are sorted by, twice as much.
    """
    with os.scandir(folder) as entries:
        return sorted(os.fsencode(each.name) + b"/" * _is_folder(each) for each in entries)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """False also where nobody can say, as of a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


@contextmanager
def _written_aside(path: Path, data: bytes) -> Iterator[Path]:
    """The data, safe on the disk, in a hidden file of the same folder that goes away afterwards."""
    _make_folder(path.parent)
    temporary = path.parent / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        why = (
            f"no folder can be made in {str(there)!r}"
            if there.is_dir()
            else (f"{str(there)!r} is a file, not a folder")
        )
        message = f"nothing can be written to {str(folder)!r}: {why}. Give another place."
        raise StorageError(message) from error


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut, where the file system can promise that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Put what the operating system says into the tree of `workers.errors`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ObjectMissing(f"there is no file {str(path)!r}") from error
    except PermissionError as error:
        raise AccessDenied(
            f"{str(path)!r} may not be used by this user. Change its owner or its mode."
        ) from error
    except OSError as error:
        kind = StorageUnavailable if error.errno in _PASSING else StorageError
        raise kind(f"{str(path)!r}: {error.strerror or error}") from error
