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

from workers.errors import LineError
from workers.labels.schema import LabelRow
from workers.records.parquet import find_pictures
from workers.records.pictures import PictureLimits, decode_picture
from workers.records.reading import fetch_image, read_records
from workers.records.record import ImageRef
from workers.shards.kinds import ShardKind, kind_of
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
        yield from find_pictures(uri, named, Anywhere())
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
