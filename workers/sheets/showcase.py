"""A picture sheet of committed labels, for people: photos, masks, and the phrase of each."""

import io
import re
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from heapq import nsmallest
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from workers.errors import LineError
from workers.labels.manifests import current_commits, read_rows
from workers.labels.rows import LABELLED
from workers.labels.schema import LabelRow
from workers.records.pictures import PictureLimits, decode_picture
from workers.records.reading import fetch_image, read_records
from workers.records.record import ImageRef
from workers.shards.listing import kind_of
from workers.shards.plan import Shard
from workers.sheets.sheet import draw_sheet, make_card
from workers.storage.objects import Store
from workers.storage.stores import Anywhere, open_store
from workers.storage.uris import join_uri

SHEET_NAME = "sheet.png"
SHEET_CARDS = 12
"""Cards of a sheet: two columns that fit a screen of a README after some scrolling."""
_LIGHT = ("status", "image_uri", "image_member", "row_index", "instruction")

Photo = NDArray[np.uint8]
"""(h, w, 3), upright"""
Place = tuple[str, str | None]
"""Of an image: its file, or the archive or table that holds it and which one in there it is."""


def write_sheet(output: str, cards: int = SHEET_CARDS) -> str:
    """Draws the first rows of an output, one image after the other; returns the picture's URI."""
    store = open_store(output)
    rows = _first_rows(store, output, cards)
    photos = _fetch_photos(dict.fromkeys(_place(row) for row in rows))
    sheet = draw_sheet([make_card(row, photos.get(_place(row))) for row in rows])
    picture = io.BytesIO()
    sheet.save(picture, format="PNG", optimize=True)
    return store.put(join_uri(output, SHEET_NAME), picture.getvalue()).uri


def _first_rows(store: Store, output: str, most: int) -> list[LabelRow]:
    """Up to `most` answered rows, by image and in the order of the questions.

    The table goes by without its masks, and whole rows are read of the parts that hold the first.
    """
    commits = list(current_commits(store, output))
    light = (
        (_order(row), number)
        for number, commit in enumerate(commits)
        for row in read_rows(store, output, [commit], _LIGHT)
        if row.status in LABELLED
    )
    first = nsmallest(most, light)
    orders, numbers = {order for order, _ in first}, sorted({number for _, number in first})
    rows = read_rows(store, output, [commits[number] for number in numbers])
    chosen = (row for row in rows if row.status in LABELLED and _order(row) in orders)
    return sorted(chosen, key=_order)[:most]


def _place(row: LabelRow) -> Place:
    return row.image_uri, row.image_member


def _order(row: LabelRow) -> tuple[str, str, int, str]:
    # row 9 of a Parquet file stands before row 10: the file is read up to the last that is wanted
    member = re.sub(r"\d+", lambda digits: digits[0].zfill(9), row.image_member or "")
    return row.image_uri, member, row.row_index, row.instruction


def _fetch_photos(places: Iterable[Place]) -> dict[Place, Photo]:
    """The images in the masks' frame, without those that can't be had any more.

    Args:
        places: those in one file stand together.
    """
    photos: dict[Place, Photo] = {}
    for uri, group in groupby(places, key=lambda place: place[0]):
        with suppress(LineError):
            for image in _find_images(uri, {member for _, member in group}):
                if (photo := _decode(image)) is not None:
                    photos[uri, image.member] = photo
    return photos


def _find_images(uri: str, members: Set[str | None]) -> Iterator[ImageRef]:
    """A file that is an image, or images in a file, found as a run finds them: going through it.

    In a Parquet file with columns of the user's own names, which only the run knew, there is none.
    """
    kind = kind_of(uri)
    if kind is None:
        yield ImageRef(uri, None, None, None)
        return
    left, info = set(members), Anywhere().stat(uri)
    whole_file = Shard("", kind, uri, uri, info.etag, info.size)
    for record in read_records(whole_file, Anywhere()):
        image = record.image
        if image is not None and image.data is not None and image.member in left:
            left.remove(image.member)
            yield image
        if not left:
            return


def _decode(image: ImageRef) -> Photo | None:
    limits = PictureLimits()
    with suppress(LineError):
        data = fetch_image(image, Anywhere(), limits.max_bytes)
        return decode_picture(data, limits).rgb
    return None
