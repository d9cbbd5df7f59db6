"""Rows of a Parquet file -> records. A row's columns mean what the keys of a JSON line mean.

Of rows that were labelled, the pictures can be found again (`find_pictures`): every value that
could be one, for only the run knew which column to take.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from workers.errors import RecordRejected
from workers.records.record import Record, RecordMaker
from workers.records.rejections import Reason, quote
from workers.records.row_groups import BATCH_ROWS, open_table, read_rows
from workers.shards.parquet import PARQUET_ERRORS, is_damage
from workers.shards.plan import Shard
from workers.storage.objects import Store
from workers.storage.uris import shown


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands for a value that Arrow can't give to Python."""

    why: str


def read_parquet(shard: Shard, store: Store, maker: RecordMaker) -> Iterator[Record]:
    """Reads a range of rows, or the whole file.

    Raises:
        RecordRejected: the file is cut off or damaged.
    """
    row_index = 0
    for batch in _or_truncated(read_rows(store, shard), shard):
        names, columns = batch.schema.names, [_to_values(column) for column in batch.columns]
        for values in zip(*columns, strict=True):
            yield from _make_records(dict(zip(names, values, strict=True)), row_index, maker)
            row_index += 1


def find_pictures(uri: str, members: Iterable[str], store: Store) -> Iterator[bytes]:
    """All values of some rows that could be pictures.

    Args:
        uri: of the file; where it is damaged, what lies behind is not found.
        members: of its images, as `RecordMaker` names them: the number of the row comes first.
        store: where it lies.

    Raises:
        StorageError: the store failed.
    """
    with store.open(uri) as file, suppress(*PARQUET_ERRORS):
        numbers = sorted(_row_number(member) for member in members)
        for row in _pick_rows(open_table(file), numbers):
            for column in row.columns:
                value = column[0].as_py()
                data = value.get("bytes") if isinstance(value, dict) else value
                if isinstance(data, bytes):
                    yield data


def _make_records(entry: dict[str, object], row_index: int, maker: RecordMaker) -> Iterator[Record]:
    for name, value in entry.items():
        if isinstance(value, _Unreadable):
            message = f"{maker.place(row_index)}: column {quote(name)} can't be read: {value.why}"
            yield maker.reject(row_index, RecordRejected(Reason.RECORD_BROKEN, message))
            return
    yield from maker.make(row_index, entry)


def _or_truncated(batches: Iterator[pa.RecordBatch], shard: Shard) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except PARQUET_ERRORS as error:
        if not is_damage(error):
            raise
        raise RecordRejected(
            Reason.SHARD_TRUNCATED, f"{shown(shard.uri)} can't be read on as Parquet: {error}"
        ) from error


def _to_values(column: pa.Array) -> list[object]:
    """The values for Python; one that can't be had takes no other row with it."""
    try:
        return cast(list[object], column.to_pylist())
    except MemoryError:
        raise
    except Exception:  # only Arrow runs inside, and it raises nearly everything: see `_to_value`
        return [_to_value(scalar) for scalar in column]


def _to_value(scalar: pa.Scalar) -> object:
    """Nanoseconds and dates that Python has no type for are taken as text, if there is one.

    The rest is no UTF-8, a time zone that nobody knows, a date inside a list.
    """
    with suppress(Exception):  # a MemoryError comes again below
        return cast(object, scalar.as_py())
    try:
        return cast(object, scalar.cast(pa.string()).as_py())
    except MemoryError:
        raise
    except Exception as error:
        return _Unreadable(f"{type(error).__name__}: {error}")


def _pick_rows(table: pq.ParquetFile, numbers: Collection[int]) -> Iterator[pa.RecordBatch]:
    """Each row as a batch of its own; row groups without any are not read."""
    paths = [path for field in table.schema_arrow for path in _picture_paths(field)]
    stop = 0
    for group in range(table.num_row_groups):
        first, stop = stop, stop + table.metadata.row_group(group).num_rows
        here = [number for number in numbers if first <= number < stop]
        if not here or not paths:
            continue
        for batch in table.iter_batches(BATCH_ROWS, row_groups=[group], columns=paths):
            yield from (batch.slice(n - first, 1) for n in here if 0 <= n - first < len(batch))
            first += len(batch)
            if first > here[-1]:
                break


def _picture_paths(field: pa.Field) -> Iterator[str]:
    """What to read of a column: bytes, or the `bytes` of a struct; nothing of others."""
    if pa.types.is_struct(field.type):
        inner = [each for each in field.type if each.name == "bytes" and _is_bytes(each.type)]
        yield from (f"{field.name}.{each.name}" for each in inner)
    elif _is_bytes(field.type):
        yield field.name


def _is_bytes(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(value) for test in tests)


def _row_number(member: str) -> int:
    """`12/photo.jpg` -> 12, as `RecordMaker` writes it."""
    return int(member.partition("/")[0])
