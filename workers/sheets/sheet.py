"""Rows of the label table -> one picture to look at: photos with their masks, and what they answer.

    +-----------+  the instruction
    |   photo   |  1 2  phrase        0.97
    |  + masks  |  3    other phrase  0.91
    +-----------+

A target has one colour and one number, in the photo and beside its phrase.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from workers.labels.rle import BoolMask, decode_mask
from workers.labels.schema import LabelRow
from workers.sheets.text import (
    BADGE_RADIUS,
    INK,
    PALE,
    PAPER,
    draw_badge,
    pick_colour,
    pick_font,
    write_text,
)

PHOTO_BOX = (400, 300)
"""A photo is shrunk or enlarged to fit; width, height in pixels."""
TEXT_WIDTH = 300
MAX_LEGEND_LINES = 9
"""Phrases of one card; more are counted in a last line."""
_GAP = 22
_FILL = 0.42  # share of the colour in a mask; the photo must still be seen through it
_OUTLINE = 2  # pixels
_INSTRUCTION_SIZE, _PHRASE_SIZE = 19, 16
_LINE, _MOUNT, _DESK = (217, 221, 228), (238, 240, 243), (247, 248, 250)
_NOTES = {
    "empty": "Nothing matches.",
    "rejected_input": "Not labelled: the input can't be used.",
    "failed": "Not labelled: it failed.",
    "partial": "The answer was incomplete.",
}
_NO_MASK = "Each mask is empty or below the lowest score."


@dataclass(frozen=True, slots=True)
class CardTarget:
    """One mask of a card."""

    mask: BoolMask
    """(h, w), as large as the photo"""
    phrase: str
    score: float


@dataclass(frozen=True, slots=True)
class Card:
    """One instruction for one photo, with its answer."""

    photo: npt.NDArray[np.uint8] | None
    """(h, w, 3), upright; None where there is none to show"""
    instruction: str
    targets: tuple[CardTarget, ...]
    note: str = ""
    """a line below the instruction: why there is no mask"""


def make_card(row: LabelRow, photo: npt.NDArray[np.uint8] | None) -> Card:
    """Takes from a row what its card shows.

    Args:
        row: of the label table; it may have fewer targets than its answer had.
        photo: its picture, (height, width, 3) uint8, upright; it may be smaller than it was.
    """
    size = PHOTO_BOX if photo is None else (photo.shape[1], photo.shape[0])
    targets = tuple(
        # one after the other: twelve masks of a large photo would be as many times its pixels
        CardTarget(
            _resize_mask(decode_mask(each.rle_size, each.rle_counts), size),
            each.phrase or "",
            each.score,
        )
        for each in row.targets
        if each.area
    )
    note = _NOTES.get(row.status, "")
    if row.error_message:
        note = f"{note} {row.error_message}"
    if row.n_targets and not targets:
        note = f"{note} {_NO_MASK}".strip()
    return Card(photo, row.instruction, targets, note)


def fit_photo(photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A photo (h, w, 3) as large as a card shows it; fitting it again changes nothing."""
    image = Image.fromarray(photo)
    return np.asarray(image.resize(_fitting_size(image), Image.Resampling.LANCZOS))


def draw_sheet(cards: Sequence[Card], columns: int = 2) -> Image.Image:
    """Draws cards into a grid, row by row.

    Args:
        cards: at least one; a dozen fits a screen.
        columns: cards side by side.
    """
    photos = [draw_photo(card) for card in cards]
    # all photos get a box that the largest fits: with square ones, no card is wider than it must
    box = (max(photo.width for photo in photos), max(photo.height for photo in photos))
    drawn = [_draw_card(card, photo, box) for card, photo in zip(cards, photos, strict=True)]
    rows = [drawn[at : at + columns] for at in range(0, len(drawn), columns)]
    heights = [max(card.height for card in row) for row in rows]
    across, width = min(columns, len(drawn)), drawn[0].width
    size = (across * (width + _GAP) + _GAP, sum(heights) + (len(rows) + 1) * _GAP)
    sheet = Image.new("RGB", size, _DESK)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            left = _GAP + column * (width + _GAP)
            _place_card(sheet, card, (left, top, left + width - 1, top + height - 1))
        top += height + _GAP
    return sheet


def paint_masks(photo: Image.Image, masks: Sequence[BoolMask]) -> Image.Image:
    """Lays the masks over a photo of the same size: colour, outline, number."""
    pixels = np.asarray(photo, dtype=np.float32).copy()
    colours = [np.array(pick_colour(index), dtype=np.float32) for index in range(len(masks))]
    for mask, colour in zip(masks, colours, strict=True):
        pixels[mask] = (1 - _FILL) * pixels[mask] + _FILL * colour
    for mask, colour in zip(masks, colours, strict=True):  # outlines stay above all fills
        pixels[mask & ~ndimage.binary_erosion(mask, iterations=_OUTLINE)] = colour
    painted = Image.fromarray(pixels.round().astype(np.uint8))
    draw = ImageDraw.Draw(painted)
    for index, mask in enumerate(masks):
        if mask.any():
            draw_badge(draw, _badge_place(mask), index)
    return painted


def _place_card(sheet: Image.Image, card: Image.Image, box: tuple[int, int, int, int]) -> None:
    ImageDraw.Draw(sheet).rectangle(box, PAPER)
    sheet.paste(card, box[:2])
    ImageDraw.Draw(sheet).rectangle(box, outline=_LINE)


def _draw_card(card: Card, photo: Image.Image, box: tuple[int, int]) -> Image.Image:
    text = _draw_text(card)
    size = (box[0] + TEXT_WIDTH + 2 * _GAP, max(box[1], text.height + 2 * _GAP))
    drawn = Image.new("RGB", size, PAPER)
    ImageDraw.Draw(drawn).rectangle((0, 0, box[0] - 1, size[1]), _MOUNT)
    drawn.paste(photo, ((box[0] - photo.width) // 2, (size[1] - photo.height) // 2))
    drawn.paste(text, (box[0] + _GAP, _GAP))
    return drawn


def draw_photo(card: Card) -> Image.Image:
    """The photo of a card with its masks, within PHOTO_BOX."""
    if card.photo is None:
        blank = Image.new("RGB", PHOTO_BOX, _MOUNT)
        draw = ImageDraw.Draw(blank)
        middle = (PHOTO_BOX[0] // 2, PHOTO_BOX[1] // 2)
        draw.text(middle, "no picture", PALE, pick_font(_PHRASE_SIZE), anchor="mm")
        return blank
    photo = Image.fromarray(fit_photo(card.photo))
    masks = [_resize_mask(target.mask, photo.size) for target in card.targets]
    return paint_masks(photo, masks)


def _fitting_size(photo: Image.Image) -> tuple[int, int]:
    scale = min(PHOTO_BOX[0] / photo.width, PHOTO_BOX[1] / photo.height)
    return max(1, round(photo.width * scale)), max(1, round(photo.height * scale))


def _draw_text(card: Card) -> Image.Image:
    """The column beside the photo; drawn on a tall page that is then cut to its height."""
    lines = _group_by_phrase(card.targets)
    page = Image.new("RGB", (TEXT_WIDTH, 4_000), PAPER)
    draw = ImageDraw.Draw(page)
    top = write_text(draw, (0, 0, TEXT_WIDTH), card.instruction, _INSTRUCTION_SIZE, INK) + 12
    draw.line((0, top, TEXT_WIDTH, top), _LINE, 1)
    top += 14
    if card.note:
        top = write_text(draw, (0, top, TEXT_WIDTH), card.note, _PHRASE_SIZE, PALE) + 8
    for phrase, members in lines[:MAX_LEGEND_LINES]:
        top = _draw_legend_line(draw, top, phrase, members, card) + 8
    if len(lines) > MAX_LEGEND_LINES:
        more = f"and {len(lines) - MAX_LEGEND_LINES} more"
        top = write_text(draw, (0, top, TEXT_WIDTH), more, _PHRASE_SIZE, PALE)
    return page.crop((0, 0, TEXT_WIDTH, min(page.height, top)))


def _draw_legend_line(
    draw: ImageDraw.ImageDraw, top: int, phrase: str, members: Sequence[int], card: Card
) -> int:
    """Numbers, phrase and score of the targets that share a phrase; returns the next line's top."""
    scores = sorted(card.targets[index].score for index in members)
    shown = " - ".join(dict.fromkeys(f"{score:.2f}" for score in (scores[0], scores[-1])))
    font = pick_font(_PHRASE_SIZE - 2)
    draw.text((TEXT_WIDTH, top + BADGE_RADIUS), shown, PALE, font, anchor="rm")
    right = TEXT_WIDTH - round(draw.textlength(shown, font)) - 12
    left, step = 0, 2 * BADGE_RADIUS + 3
    for index in members:
        if left + step > right:
            left, top = 0, top + step
        draw_badge(draw, (left + BADGE_RADIUS, top + BADGE_RADIUS), index)
        left += step
    if right - left < TEXT_WIDTH // 4:  # the numbers fill the line: the phrase goes below
        left, top = 0, top + step
    line_box = (left + 5, top, right - left - 5)
    return write_text(draw, line_box, phrase or "(no phrase)", _PHRASE_SIZE, INK)


def _badge_place(mask: BoolMask) -> tuple[int, int]:
    """x, y for a number: where the mask is widest, or above it where it would be hidden."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = (int(value) for value in np.unravel_index(int(depth.argmax()), depth.shape))
    if depth.max() < BADGE_RADIUS:
        y = max(BADGE_RADIUS, int(mask.any(axis=1).argmax()) - BADGE_RADIUS - 2)
    return min(max(x, BADGE_RADIUS), mask.shape[1] - BADGE_RADIUS - 1), y


def _group_by_phrase(targets: Sequence[CardTarget]) -> list[tuple[str, list[int]]]:
    groups: dict[str, list[int]] = {}
    for index, target in enumerate(targets):
        groups.setdefault(target.phrase, []).append(index)
    return list(groups.items())


def _resize_mask(mask: BoolMask, size: tuple[int, int]) -> BoolMask:
    """A mask as large as a picture of (width, height); one that has a pixel keeps one."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    resized = np.asarray(image.resize(size, Image.Resampling.BILINEAR)) >= 128
    if mask.any() and not resized.any():  # too small to be seen, yet its number must lie somewhere
        resized = np.zeros(resized.shape, np.bool_)
        rows, columns = np.nonzero(mask)
        resized[rows * size[1] // mask.shape[0], columns * size[0] // mask.shape[1]] = True
    return resized
