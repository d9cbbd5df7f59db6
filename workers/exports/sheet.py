"""The first answers of a label table as one picture (PNG), for people: photos, masks, phrases.

A card is one row: an instruction for one image, with its masks. `workers.sheets` draws it; here it
is settled which rows are shown, in the order of their images.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from heapq import nsmallest
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from workers.errors import ExportError
from workers.exports.selection import ExportOptions, ExportSummary, keeps
from workers.labels.parts import LabelTable
from workers.labels.rows import ANSWER_COLUMNS, has_answer
from workers.labels.schema import LabelRow
from workers.sheets.photos import find_photos
from workers.sheets.sheet import Card, draw_sheet, make_card

_LIGHT = ("image_uri", "image_member", "row_index", "instruction", *ANSWER_COLUMNS)
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)

Order = tuple[str, str, int, str]
"""What cards are sorted by."""


def write_sheet(file: BinaryIO, table: LabelTable, options: ExportOptions) -> ExportSummary:
    """Writes the picture.

    Memory: some 2 MB for each card; one photo and one mask at a time are held in full.

    Raises:
        ExportError: no row has an answer.
    """
    left_out = Counter[str]()
    rows = [_keep_masks(row, options, left_out) for row in _first_rows(table, options, left_out)]
    if not rows:
        raise ExportError("no row of the run has an answer, so there is nothing to draw")
    photos = find_photos(rows)
    cards = [make_card(row, photos.get(row.image_sha256)) for row in rows]
    draw_sheet(cards).save(file, format="PNG", optimize=True)
    left_out["pictures that are gone, replaced or unreadable"] = _count_images(rows) - len(photos)
    return _summarise(cards, len(photos), left_out)


def check_sheet(path: Path) -> list[str]:
    """What is wrong with a sheet, one sentence each: it is read back whole, as a viewer does."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
    except _BOMBS as error:
        return [f"many viewers refuse so large a picture, show fewer --cards: {error}"]
    except (OSError, SyntaxError, ValueError) as error:  # all that Pillow raises on a broken PNG
        return [f"{error}"]
    return []


def _first_rows(
    table: LabelTable, options: ExportOptions, left_out: Counter[str]
) -> Sequence[LabelRow]:
    """Up to `options.cards` answered rows, by image and in the order of the questions.

    The table goes by without its masks, and whole rows are read of the parts that hold the first.
    """
    seen = Counter[bool]()
    light = (
        (_order(row), number)
        for number in range(len(table.parts))
        for row in table.only([number]).rows(_LIGHT)
        if _tally(row, seen)
    )
    first = nsmallest(options.cards, light)
    orders, numbers = {order for order, _ in first}, sorted({number for _, number in first})
    rows = table.only(numbers).rows()
    chosen = (row for row in rows if has_answer(row) and _order(row) in orders)
    shown = sorted(chosen, key=_order)[: options.cards]
    left_out["rows without an answer"] = seen[False]
    more = f"answered rows after the first {options.cards}; --cards takes more"
    left_out[more] = seen[True] - len(shown)
    return shown


def _tally(row: LabelRow, seen: Counter[bool]) -> bool:
    """Whether a row has an answer; it is counted either way."""
    answered = has_answer(row)
    seen[answered] += 1
    return answered


def _order(row: LabelRow) -> Order:
    # row 9 of a Parquet file stands before row 10: the file is read up to the last that is wanted
    member = re.sub(r"\d+", lambda digits: digits[0].zfill(9), row.image_member or "")
    return row.image_uri, member, row.row_index, row.instruction


def _keep_masks(row: LabelRow, options: ExportOptions, left_out: Counter[str]) -> LabelRow:
    kept = (target for target in row.targets if keeps(target, options, left_out))
    return replace(row, targets=tuple(kept))


def _count_images(rows: Sequence[LabelRow]) -> int:
    return len({row.image_sha256 for row in rows})


def _summarise(cards: Sequence[Card], images: int, left_out: Counter[str]) -> ExportSummary:
    """Counts what can be seen: masks without their photo are not."""
    masks = sum(len(card.targets) for card in cards if card.photo is not None)
    return ExportSummary(images, masks, {"cards": len(cards)}, left_out)
