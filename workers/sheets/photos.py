"""The photos of labelled rows, found again where the rows say, and known by their SHA-256.

Masks fit only the picture that they were made for, so nothing else is shown below them: a file that
was replaced since is as good as gone. In a Parquet file every value of a row is tried that could be
a picture, for only the run knew which column to take.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from workers.errors import LineError
from workers.labels.schema import LabelRow
from workers.records.parquet import BATCH_ROWS, READ_BYTES
from workers.records.pictures import PictureLimits, decode_picture
from workers.records.reading import fetch_image, read_records
from workers.records.record import ImageRef
from workers.shards.listing import ShardKind, kind_of
from workers.shards.parquet import PARQUET_ERRORS
from workers.shards.plan import Shard
from workers.sheets.sheet import fit_photo
from workers.storage.stores import Anywhere

Photo = npt.NDArray[np.uint8]
"""(h, w, 3), upright, as large as a card shows it"""


def find_photos(rows: Iterable[LabelRow]) -> dict[str, Photo]:
    """The photos by SHA-256, without those that can't be had any more.

    Memory: one picture in full, and of a Parquet file `BATCH_ROWS` rows or one page of a column,
    whichever is more.

    Args:
        rows: answered ones; those with images in one file stand together.
    """
    photos: dict[str, Photo] = {}
    for uri, group in groupby(rows, key=lambda row: row.image_uri):
        left = {r.image_sha256: r.image_member for r in group if r.image_sha256 not in photos}
        for digest, data in _find_images(uri, left):
            with suppress(LineError):
                photos[digest] = fit_photo(decode_picture(data, PictureLimits()).rgb)
    return photos


def _find_images(uri: str, left: dict[str, str | None]) -> Iterator[tuple[str, bytes]]:
    """Goes through what may be the images wanted, until all are found.

    Args:
        uri: of the image, or of the archive or table that holds them.
        left: SHA-256 -> member; what is found is taken out.

    Yields:
        SHA-256 and bytes.
    """
    with suppress(LineError):
        for data in _candidates(uri, set(left.values())) if left else ():
            digest = hashlib.sha256(data).hexdigest()
            if digest in left:
                del left[digest]
                yield digest, data
            if not left:
                return


def _candidates(uri: str, members: Collection[str | None]) -> Iterator[bytes]:
    named = [member for member in members if member is not None]
    if not named:
        image = ImageRef(uri, None, None, None)
        yield fetch_image(image, Anywhere(), PictureLimits().max_bytes)
    elif kind_of(uri) is ShardKind.PARQUET:
        yield from _in_parquet(uri, sorted(_row_number(member) for member in named))
    else:
        yield from _in_archive(uri, named)


def _in_archive(uri: str, members: Collection[str]) -> Iterator[bytes]:
    kind, info = kind_of(uri), Anywhere().stat(uri)
    assert kind is not None, uri  # only archives and tables have members
    whole_file = Shard("", kind, uri, uri, info.etag, info.size)
    for record in read_records(whole_file, Anywhere()):
        image = record.image
        if image is not None and image.data is not None and image.member in members:
            yield image.data


def _in_parquet(uri: str, numbers: Collection[int]) -> Iterator[bytes]:
    """All values of some rows that could be pictures.

    Args:
        uri: of the file; where it is damaged, what lies behind is not found.
        numbers: of the rows in the file, from 0, ascending.
    """
    with Anywhere().open(uri) as file, suppress(*PARQUET_ERRORS):
        # with either default, a column of a row group is read at once: 1000 pictures
        table = pq.ParquetFile(file, buffer_size=READ_BYTES, pre_buffer=False)
        for row in _read_rows(table, numbers):
            for column in row.columns:
                value = column[0].as_py()
                data = value.get("bytes") if isinstance(value, dict) else value
                if isinstance(data, bytes):
                    yield data


def _read_rows(table: pq.ParquetFile, numbers: Collection[int]) -> Iterator[pa.RecordBatch]:
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
