"""What a store says of the bytes of an object, apart from giving them, and whether a file fits.

S3 knows some of these for every object, and which ones depends on who wrote it: SHA-256, SHA-1 or
CRC-32 where the writer asked for it; the MD5 as the ETag of what was written in one part; for more
parts, the MD5 of the parts' MD5s. CRC-32C and CRC-64 are left out: plain Python takes minutes a GB.
"""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PIECE_BYTES = 4 * 2**20


class _Sum(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc32:
    """zlib's, in the form of hashlib's digests."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


@dataclass(frozen=True, slots=True)
class Checksum:
    """Of the bytes of an object."""

    algorithm: str
    """`md5`, `sha1`, `sha256` or `crc32`"""
    hex: str
    part_bytes: int = 0
    """of each part but the last, where it is the digest of the parts' digests; else 0"""

    def fits(self, path: Path) -> bool:
        """Whether a file has it; reads the whole file."""
        return digest_file(path, self.algorithm, self.part_bytes) == self.hex


def digest_file(path: Path, algorithm: str, part_bytes: int = 0) -> str:
    """The digest of a file in hex; with parts, that of the parts' digests.

    Args:
        path: of the file.
        algorithm: see `Checksum`.
        part_bytes: of each part; 0 for the digest of the whole.
    """
    whole, part, room = _begin(algorithm), _begin(algorithm), part_bytes
    with path.open("rb") as file:
        while piece := file.read(min(PIECE_BYTES, room) if part_bytes else PIECE_BYTES):
            part.update(piece)
            room -= len(piece)
            if part_bytes and room == 0:
                whole.update(bytes.fromhex(part.hexdigest()))
                part, room = _begin(algorithm), part_bytes
    if not part_bytes:
        return part.hexdigest()
    if room < part_bytes:
        whole.update(bytes.fromhex(part.hexdigest()))
    return whole.hexdigest()


def _begin(algorithm: str) -> _Sum:
    if algorithm == "crc32":
        return _Crc32()
    return hashlib.new(algorithm, usedforsecurity=False)
