import numpy as np
import pytest
from PIL import Image, ImageDraw

from pixellm.run_lengths import RunMask
from tests.photos import load_photos
from workers.exports.staircases import trace_staircases


def paint(mask, polygons):
    """As a reader does it that fills polygons together with their lines."""
    picture = Image.new("L", (mask.shape[1], mask.shape[0]))
    for polygon in polygons:
        ImageDraw.Draw(picture).polygon([tuple(p) for p in polygon], fill=1, outline=1)
    return np.asarray(picture).astype(bool)


def trace(mask):
    return trace_staircases(RunMask.from_pixels(mask))


def test_a_rectangle_has_its_four_corner_pixels():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    assert trace(mask) == [[(2, 1), (6, 1), (6, 3), (2, 3)]]


def test_a_pixel_and_a_line_have_three_corners():
    mask = np.zeros((6, 8), bool)
    mask[4, 1] = True
    mask[0:3, 5] = True
    assert trace(mask) == [[(1, 4)] * 3, [(5, 0), (5, 2), (5, 2)]]


def test_no_pixels_are_no_polygons():
    assert trace(np.zeros((4, 4), bool)) == []


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_any_mask_comes_back_from_its_polygons(share):
    rng = np.random.default_rng(3)
    for _ in range(100):
        mask = rng.random((rng.integers(1, 13), rng.integers(1, 13))) < share
        polygons = trace(mask)
        assert np.array_equal(paint(mask, polygons), mask)
        assert all(len(polygon) >= 3 for polygon in polygons)
        steps = [zip(each, each[1:] + each[:1], strict=True) for each in polygons]
        assert all(a[0] == b[0] or a[1] == b[1] for step in steps for a, b in step)


def test_masks_that_people_drew_come_back_in_few_polygons():
    for photo in load_photos():
        for mask in photo.masks:
            polygons = trace(mask)
            assert np.array_equal(paint(mask, polygons), mask)
            assert len(polygons) <= 60
