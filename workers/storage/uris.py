"""How places are named: URIs, and how much of one a message may show.

A URI is `s3://bucket/key` (the key as it is, not percent-encoded), `mem://bucket/key`, or the
absolute path of a local file. A prefix means a folder on every store: what lies under `s3://b/cats`
begins with `cats/`, so `cats-old/1.jpg` does not belong to it.
"""

import os
import re
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import unquote, urlsplit, urlunsplit

from workers.errors import SettingsError, StorageError

Scheme = Literal["s3", "mem"]
"""Of places that are no path; `workers.storage.stores` has a store for each."""
BUCKET_SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
KNOWN_PLACES = "Give 's3://bucket/prefix' or the path of a local file or folder."
NOT_TEXT = "this name is not UTF-8, so no table can hold it; rename it (convmv does many at once)"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET = re.compile(r"(?i)([?&](?:x-amz-[\w-]+|awsaccesskeyid|signature|sig|token)=)[^&\s\"']+")


def scheme_of(uri: str) -> str:
    """`s3`, `mem`, `https`...; empty for a path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def split_bucket(uri: str) -> tuple[str, str]:
    """`s3://bucket/a/b` -> (`bucket`, `a/b`); the key may be empty."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not bucket:
        raise StorageError(f"{shown(uri)} names no bucket. Write it as 's3://bucket/prefix'.")
    return bucket, key


def join_uri(prefix: str, *names: str) -> str:
    """`join_uri("s3://b/out", "labels", "x")` -> `s3://b/out/labels/x`, and the same for paths."""
    return "/".join([prefix.rstrip("/"), *(name.strip("/") for name in names)])


def under(uri: str, prefix: str) -> str | None:
    """The part of the URI below the folder `prefix`, or None when it does not lie in it."""
    folder = prefix.rstrip("/") + "/"
    return uri[len(folder) :] if uri.startswith(folder) else None


def normalise_uri(text: str) -> str:
    """One spelling for one place: relative paths and `file://` become absolute paths.

    Raises:
        SettingsError: it is empty, no text, names an unknown user's home, or has a scheme that
            no store is for.
    """
    text = text.strip()
    scheme = scheme_of(text)
    if scheme in BUCKET_SCHEMES:
        bucket, key = split_bucket(text)
        return f"{scheme}://{bucket}/{key}".rstrip("/")
    if scheme == "file":
        text = unquote(text.partition("://")[2])
    elif scheme or not text:
        raise SettingsError(f"{shown(text)} is no place for files. {KNOWN_PLACES}")
    if "\0" in text:
        raise SettingsError(f"{shown(text)} is no place for files: no name has a zero byte in it")
    try:
        path = os.path.normpath(Path(text).expanduser().absolute())
    except RuntimeError as error:  # `~name`
        message = f"{shown(text)}: there is no such user here; write the folder out"
        raise SettingsError(message) from error
    if not is_text(path):
        raise SettingsError(f"{shown(path)}: {NOT_TEXT}")
    return path


def is_text(uri: str) -> bool:
    """Whether it can be written down. Names of local files may be any bytes: no UTF-8, no text."""
    return uri == uri.encode("utf-8", "replace").decode()


def written(uri: str) -> str:
    r"""The URI as text: of a name that is none, the bytes that are no UTF-8 stand as `\xe9`."""
    return uri if is_text(uri) else os.fsencode(uri).decode("utf-8", "backslashreplace")


def redact(text: str) -> str:
    """Take the values of signatures and keys out of any text."""
    return _SECRET.sub(r"\1...", text)


def shown(uri: str) -> str:
    """The URI in quotes for a message, without the secrets that a URI can carry.

    Those are the query of a presigned address and `user:password@` before a host.
    """
    if scheme_of(uri) in ("", "file"):
        return repr(uri)
    try:
        parts = urlsplit(uri)
    except ValueError:  # a bracket that is no IPv6 address
        return repr(uri.partition("://")[0] + "://...")
    host = parts.netloc.rpartition("@")[2]
    if scheme_of(uri) in BUCKET_SCHEMES:  # "?" and "#" are letters of a key
        key = uri.partition("://")[2].partition("/")[2]
        return repr(redact(f"{scheme_of(uri)}://{host}/{key}"))
    bare = parts._replace(netloc=host)
    return repr(urlunsplit(bare._replace(query="...", fragment="") if parts.query else bare))
