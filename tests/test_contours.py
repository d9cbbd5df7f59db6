import numpy as np
from scipy import ndimage

from tests.photos import load_photos
from workers.exports.contours import trace_polygons
from workers.labels.rle import fill_polygons


def test_polygons_of_real_masks_fill_to_exactly_the_same_masks():
    for photo in load_photos():
        for mask in photo.masks:
            assert np.array_equal(fill_polygons(trace_polygons(mask), mask.shape), mask)


def test_polygons_of_noise_fill_to_exactly_the_same_mask():
    rng = np.random.default_rng(0)
    for index in range(200):
        shape = tuple(rng.integers(1, 30, 2))
        noise = rng.random(shape)
        mask = noise < rng.random() if index % 2 else ndimage.gaussian_filter(noise, 2) > 0.5
        if mask.any():
            assert np.array_equal(fill_polygons(trace_polygons(mask), shape), mask)


def test_a_rectangle_has_four_corners():
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, 2:7] = True
    assert trace_polygons(mask) == [[2, 1, 7, 1, 7, 4, 2, 4]]


def test_parts_are_polygons_of_their_own_and_pixels_at_a_corner_are_two_parts():
    assert len(trace_polygons(np.eye(3, dtype=bool))) == 3


def test_a_hole_stays_open():
    mask = np.ones((7, 7), dtype=bool)
    mask[2:5, 2:5] = False
    (polygon,) = trace_polygons(mask)
    assert fill_polygons([polygon], (7, 7)).sum() == 40


def test_an_empty_mask_has_no_polygon():
    assert trace_polygons(np.zeros((4, 4), dtype=bool)) == []
