from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tests.labels import ATTEMPT, label_photo, make_answer, make_record
from tests.photos import load_photos
from workers.labels.rows import answer_row
from workers.records.pictures import PictureFacts
from workers.sheets.sheet import (
    PHOTO_BOX,
    Card,
    CardTarget,
    draw_photo,
    draw_sheet,
    fit_photo,
    make_card,
    paint_masks,
)
from workers.sheets.text import COLOURS


def has_colour(image, colour) -> bool:
    return bool((np.asarray(image) == colour).all(axis=-1).any())


def card(count=1, instruction="the square", phrase="square"):
    photo = np.full((60, 80, 3), 128, dtype=np.uint8)
    masks = [np.zeros((60, 80), dtype=bool) for _ in range(count)]
    for number, mask in enumerate(masks):
        mask[5:30, 5 + 6 * number : 10 + 6 * number] = True
    return Card(photo, instruction, tuple(CardTarget(mask, phrase, 0.9) for mask in masks))


def test_a_mask_is_painted_where_it_is_and_nowhere_else():
    photo = Image.new("RGB", (80, 60), (128, 128, 128))
    mask = np.zeros((60, 80), dtype=bool)
    mask[10:50, 10:50] = True
    painted = np.asarray(paint_masks(photo, [mask]))
    assert (painted[~mask] == 128).all()
    assert tuple(painted[10, 10]) == COLOURS[0]
    inside = painted[15, 15].astype(int)
    assert np.abs(inside - (0.58 * 128 + 0.42 * np.array(COLOURS[0]))).max() <= 1


def test_each_target_has_a_colour_of_its_own_in_photo_and_legend():
    sheet = draw_sheet([card(count=3)], columns=1)
    photo, legend = (sheet.crop(box) for box in ((0, 0, 420, 340), (425, 0, sheet.width, 340)))
    for colour in COLOURS[:3]:
        assert has_colour(photo, colour)
        assert has_colour(legend, colour)
    assert not has_colour(sheet, COLOURS[3])


def test_a_mask_that_is_too_small_for_the_card_has_its_number_where_it_lies():
    photo, mask = np.zeros((3000, 4000, 3), np.uint8), np.zeros((3000, 4000), np.bool_)
    mask[2000, 1000] = True
    tiny = Card(photo, "a speck", (CardTarget(mask, "speck", 0.5),))
    painted = np.asarray(draw_photo(tiny))
    rows, columns = np.nonzero(painted.any(-1))
    assert abs(int(columns.mean()) - 100) < 3  # the speck and, above it, its number
    assert 150 < rows.min() < rows.max() == 200
    assert tuple(painted[200, 100]) == COLOURS[0]


def test_rows_of_real_photos_become_cards():
    photo = load_photos()[0]
    made = make_card(label_photo(photo), photo.rgb)
    assert [target.phrase for target in made.targets] == list(photo.phrases)
    for target, mask in zip(made.targets, photo.masks, strict=True):
        assert np.array_equal(target.mask, mask)
    assert made.note == ""


def test_a_row_without_masks_says_why():
    row = replace(label_photo(load_photos()[0]), status="empty", targets=(), n_targets=0)
    assert make_card(row, None).note == "Nothing matches."
    row = replace(row, status="ok", n_targets=2)
    assert make_card(row, None).note == "Each mask is empty or below the lowest score."
    row = replace(row, n_targets=0, status="rejected_input", error_message="the file is empty")
    assert make_card(row, None).note.endswith("the file is empty")


def test_cards_stand_side_by_side_and_below_each_other():
    one = draw_sheet([card()], columns=2)
    two = draw_sheet([card()] * 2, columns=2)
    three = draw_sheet([card()] * 3, columns=2)
    assert two.height == one.height
    assert two.width > 1.8 * one.width
    assert three.width == two.width
    assert three.height > 1.8 * two.height


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10), (300, 300), (1, 1), (2000, 3000)])
def test_a_photo_of_any_shape_fits_its_box(shape):
    mask = np.ones(shape, dtype=bool)
    photo = np.zeros((*shape, 3), dtype=np.uint8)
    sheet = draw_sheet([Card(photo, "all of it", (CardTarget(mask, "it", 1.0),))])
    assert sheet.width <= PHOTO_BOX[0] + 400
    assert sheet.height <= PHOTO_BOX[1] + 60


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10), (301, 400), (1, 1), (2000, 3000)])
def test_a_card_of_a_photo_that_was_shrunk_before_is_the_same_to_the_pixel(shape):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    mask = ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0
    answer = make_answer([mask], ["blobs"])
    row = answer_row(make_record(), PictureFacts("ab" * 32, *shape[::-1], 1), answer, ATTEMPT, 1.0)
    small = fit_photo(photo)
    assert small.shape[0] <= PHOTO_BOX[1]
    assert small.shape[1] <= PHOTO_BOX[0]
    card = make_card(row, small)
    assert all(target.mask.shape == small.shape[:2] for target in card.targets)
    assert np.array_equal(draw_sheet([card]), draw_sheet([make_card(row, photo)]))


def test_without_a_photo_no_mask_is_kept_in_full():
    row = label_photo(load_photos()[0])
    assert all(target.mask.shape == PHOTO_BOX[::-1] for target in make_card(row, None).targets)


def test_long_and_foreign_texts_many_targets_and_no_photo_are_drawn():
    cards = [
        card(count=12, instruction="word " * 300),
        card(instruction="x" * 1000, phrase="y" * 1000),
        card(instruction="найди красную кружку", phrase=""),
        Card(None, "the cat", (), "Not labelled."),
    ]
    sheet = draw_sheet(cards, columns=2)
    assert sheet.height < 2000
