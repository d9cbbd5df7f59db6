"""One file from a bucket to the disk: gone on with where it broke off, and checked.

NAME.part    is being fetched; what is there of it is the beginning of the listed version
NAME         whole, and what the store says that it is
"""

from pathlib import Path

from workers.errors import StorageError
from workers.staging.receipts import StagedFile
from workers.storage.checksums import Checksum, digest_file
from workers.storage.objects import Store, open_version
from workers.storage.uris import shown

PART_SUFFIX = ".part"
PIECE_BYTES = 16 * 2**20
"""Of one request, and what is lost when one breaks off; four files at once hold 64 MiB."""
TRIES = 2
"""Of a file that arrives damaged. A second time it isn't the network."""


def bring_file(store: Store, file: StagedFile, path: Path) -> StagedFile:
    """Sees to it that a file is there and right; what is, is not fetched.

    Args:
        store: to fetch it from.
        file: as the receipt knows it; with a digest, that one decides.
        path: where to.

    Returns:
        The file as it was found to be.

    Raises:
        StorageError: it is another version by now, or arrived damaged twice.
        StorageUnavailable: the store is away; what has arrived is kept for the next call.
    """
    checksum = Checksum("sha256", file.sha256) if file.sha256 else store.checksum(file.info)
    if digest := _digest_if_right(path, file.size, checksum):
        return file.checked(path, digest)
    part = path.with_name(path.name + PART_SUFFIX)
    for _ in range(TRIES):
        _fetch_rest(store, file, part)
        if digest := _digest_if_right(part, file.size, checksum):
            part.replace(path)
            return file.checked(path, digest)
        part.unlink()
    raise StorageError(
        f"{shown(file.uri)} arrived damaged {TRIES} times: {_describe(checksum, file)}. Put the "
        "file into the bucket again, or look for what changes it on the way."
    )


def _fetch_rest(store: Store, file: StagedFile, part: Path) -> None:
    """Appends what is missing; the store gives the version that the beginning is of, or none."""
    have = part.stat().st_size if part.exists() else 0
    if have > file.size:
        part.unlink()
        have = 0
    with open_version(store, file.info) as source, part.open("ab") as sink:
        source.seek(have)
        while piece := source.read(PIECE_BYTES):
            sink.write(piece)
            sink.flush()  # a process that is killed leaves what it has


def _digest_if_right(path: Path, size: int, checksum: Checksum | None) -> str:
    """The SHA-256 of a file that is what the store says; else nothing."""
    if not path.is_file() or path.stat().st_size != size:
        return ""
    digest = digest_file(path, "sha256")
    if checksum is None or (checksum.algorithm, checksum.part_bytes) == ("sha256", 0):
        return digest if checksum is None or checksum.hex == digest else ""
    return digest if checksum.fits(path) else ""


def _describe(checksum: Checksum | None, file: StagedFile) -> str:
    if checksum is None:
        return f"it should have {file.size:,} bytes"
    return f"it should have {file.size:,} bytes and the {checksum.algorithm} {checksum.hex}"
