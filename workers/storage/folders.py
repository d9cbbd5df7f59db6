"""A folder of this machine -> objects under a prefix."""

from collections.abc import Callable
from pathlib import Path

from workers.storage.objects import Store
from workers.storage.uris import join_uri


def put_folder(folder: Path, place: str, store: Store, last: Callable[[str], bool]) -> None:
    """Writes all files below a folder.

    Args:
        folder: on this machine; each of its files has to fit into memory.
        place: where its files will lie.
        store: where that is.
        last: whether a file of that name is what the folder counts by: those are written when all
            others are there, so that whoever sees them finds it whole.

    Raises:
        StorageError: something could not be written.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in sorted(paths, key=lambda each: last(each.name)):
        store.put(join_uri(place, path.relative_to(folder).as_posix()), path.read_bytes())
