"""A picture sheet of committed labels, for people: photos, masks, and the phrase of each."""

import io
from collections.abc import Iterable
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from workers.errors import LineError
from workers.labels.manifests import current_commits
from workers.labels.rows import LabelRow
from workers.labels.table import read_rows
from workers.records.pictures import PictureLimits, decode_picture
from workers.records.reading import fetch_image
from workers.records.record import ImageRef
from workers.sheets.sheet import Card, draw_sheet, make_card
from workers.storage.stores import open_store
from workers.storage.uris import join_uri

SHEET_NAME = "sheet.png"
SHEET_CARDS = 12
"""Cards of a sheet: two columns that fit a screen of a README after some scrolling."""


def write_sheet(output: str, cards: int = SHEET_CARDS) -> str:
    """Draws the first rows of an output, one image after the other; returns the picture's URI."""
    store = open_store(output)
    rows = read_rows(store, output, list(current_commits(store, output)))
    picture = io.BytesIO()
    draw_sheet(_cards(rows, cards)).save(picture, format="PNG", optimize=True)
    return store.put(join_uri(output, SHEET_NAME), picture.getvalue()).uri


def _cards(rows: Iterable[LabelRow], most: int) -> list[Card]:
    """Up to `most` cards, by image and in the order of the questions."""
    answered = sorted(
        (row for row in rows if row.status in ("ok", "empty", "partial")),
        key=lambda row: (row.image_uri, row.row_index, row.instruction),
    )
    cards: list[Card] = []
    for uri, group in groupby(answered, key=lambda row: row.image_uri):
        photo = _photo(uri)
        cards += [make_card(row, photo) for row in group]
        if len(cards) >= most:
            break
    return cards[:most]


def _photo(uri: str) -> NDArray[np.uint8] | None:
    """The image in the masks' frame; None where it can't be had any more."""
    try:
        image = ImageRef(uri, member=None, etag=None, data=None)
        data = fetch_image(image, open_store(uri), PictureLimits().max_bytes)
        return decode_picture(data, PictureLimits()).rgb
    except LineError:
        return None
