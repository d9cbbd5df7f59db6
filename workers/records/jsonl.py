"""JSON lines, plain or gzipped -> records."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO, cast

from workers.errors import RecordRejected
from workers.records.record import Record, RecordMaker
from workers.records.rejections import Reason
from workers.shards.plan import Shard
from workers.storage.objects import Store
from workers.storage.uris import shown

MAX_LINE_BYTES = 4 * 2**20
"""Of one record: 1000 instructions of 1000 characters fit. It also bounds what a gzip file that
unfolds to terabytes can do to the memory."""


def read_jsonl(shard: Shard, store: Store, maker: RecordMaker) -> Iterator[Record]:
    """Reads the lines of a byte range, or of a whole file.

    Raises:
        RecordRejected: a gzip file is cut off or damaged.
    """
    with store.open(shard.uri) as file:
        if shard.uri.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as unfolded:
                lines = _read_lines(cast(BinaryIO, unfolded), -1)
                yield from _make_records(_or_truncated(lines, shard), maker)
        else:
            file.seek(shard.offset)
            yield from _make_records(_read_lines(file, shard.length), maker)


def _make_records(lines: Iterator[bytes | None], maker: RecordMaker) -> Iterator[Record]:
    for row_index, line in enumerate(lines):
        place = maker.place(row_index)
        try:
            values = _parse_line(line, place)
        except RecordRejected as error:
            yield maker.reject(row_index, error)
        else:
            yield from maker.make(row_index, values)


def _read_lines(file: BinaryIO, length: int) -> Iterator[bytes | None]:
    """Yields lines that are not blank; None for one that is too long."""
    left = length
    while line := file.readline(_least(left, MAX_LINE_BYTES + 1)):
        left -= len(line) if left >= 0 else 0
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            left = _skip_line(file, left)
            yield None
        elif line.strip():
            yield line


def _skip_line(file: BinaryIO, left: int) -> int:
    while piece := file.readline(_least(left, MAX_LINE_BYTES)):
        left -= len(piece) if left >= 0 else 0
        if piece.endswith(b"\n"):
            break
    return left


def _least(left: int, limit: int) -> int:
    return limit if left < 0 else min(left, limit)


def _or_truncated(lines: Iterator[bytes | None], shard: Shard) -> Iterator[bytes | None]:
    try:
        yield from lines
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RecordRejected(
            Reason.SHARD_TRUNCATED, f"{shown(shard.uri)} is no whole gzip file: {error}"
        ) from error


def _parse_line(line: bytes | None, place: str) -> Mapping[str, object]:
    if line is None:
        raise RecordRejected(Reason.RECORD_BROKEN, f"{place}: over {MAX_LINE_BYTES:,} bytes")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordRejected(Reason.RECORD_BROKEN, f"{place}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise RecordRejected(
            Reason.RECORD_BROKEN, f"{place}: must be a JSON object, not {type(values).__name__}"
        )
    return values
