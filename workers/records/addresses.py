"""The address of an image as somebody wrote it -> a URI that may be read.

Whoever writes the input must not make a worker read what only the worker may read: an address has
to lie under one of the roots (the input itself, unless the settings name more), and addresses of
the web are never fetched.
"""

import posixpath
from collections.abc import Iterable

from workers.errors import RecordRejected, SettingsError, StorageError
from workers.records.rejections import Reason, quote
from workers.storage.uris import is_text, join_uri, normalise_uri, scheme_of, shown, under

MAX_ADDRESS_CHARS = 4096
"""The longest path of Linux; a key of S3 has 1024 bytes at most."""


def resolve_image(path: object, folder: str, roots: Iterable[str]) -> str:
    """The URI of an image that an entry names.

    Args:
        path: as it is written: a URI, an absolute path, or a path relative to `folder`.
        folder: where the file lies that names it.
        roots: folders and buckets that images may lie in.

    Raises:
        RecordRejected: it is no text, or lies outside the roots.
    """
    if not isinstance(path, str) or not _can_be_asked_for(path):
        raise RecordRejected(Reason.IMAGE_REFUSED, f"an image's address can't be {quote(path)}")
    scheme = scheme_of(path)
    if scheme in ("http", "https"):
        raise RecordRejected(
            Reason.IMAGE_REFUSED,
            f"{shown(path)} is on the web; copy the image into the bucket and name it there",
        )
    try:
        uri = normalise_uri(path if scheme or path.startswith("/") else _join(folder, path))
    except (SettingsError, StorageError) as error:  # the second: a bucket without a name
        raise RecordRejected(Reason.IMAGE_REFUSED, f"{error}") from error
    allowed = tuple(dict.fromkeys(roots))  # the input may be the folder that names the image
    if ".." in uri.split("/") or all(under(uri, root) is None for root in allowed):
        raise RecordRejected(
            Reason.IMAGE_REFUSED,
            f"{shown(uri)} does not lie under {' or '.join(map(shown, allowed)) or 'any root'}",
        )
    return uri


def _can_be_asked_for(path: str) -> bool:
    return len(path) <= MAX_ADDRESS_CHARS and "\0" not in path and is_text(path)


def _join(folder: str, path: str) -> str:
    """Joins and takes out `.` and `..`, but never climbs over the bucket's name."""
    scheme, mark, place = folder.rpartition("://")
    if not mark:
        return posixpath.normpath(posixpath.join(folder, path))
    bucket, _, key = place.partition("/")
    return join_uri(f"{scheme}://{bucket}", posixpath.normpath(posixpath.join(key, path)))
