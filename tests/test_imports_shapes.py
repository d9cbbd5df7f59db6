import numpy as np
import pytest

from tests.gold import PHOTOS, code, instances, pixels
from workers.errors import RecordRejected
from workers.imports.shapes import read_segmentation

SIZE = (20, 30)
SQUARE = [2, 3, 8, 3, 8, 9, 2, 9]


def cut(value, size=SIZE):
    return read_segmentation(value).cut(size).pixels()


def test_polygons_are_filled_as_pycocotools_does():
    for image in PHOTOS:
        size = (image["height"], image["width"])
        for annotation in instances(image):
            wanted = pixels(annotation["segmentation"], *size)
            assert np.array_equal(cut(annotation["segmentation"], size), wanted)


@pytest.mark.parametrize(
    "value",
    [
        [SQUARE],
        SQUARE,
        [np.reshape(SQUARE, (-1, 2)).tolist()],
        [SQUARE, SQUARE],
        [[float(number) for number in SQUARE]],
    ],
)
def test_a_square_is_the_same_in_every_form(value):
    wanted = np.zeros(SIZE, bool)
    wanted[3:9, 2:8] = True
    assert np.array_equal(cut(value), wanted)


def test_several_run_lengths_are_one_mask():
    first, second = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    first[2:5, 2:9], second[4:8, 6:12] = True, True
    found = cut([code(first), code(second, plain=False)])
    assert np.array_equal(found, first | second)


def test_a_polygon_may_leave_the_picture():
    assert cut([[-10, -10, 40, -10, 40, 50, -10, 50]]).all()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "neither polygons nor run lengths: None"),
        ([], "neither polygons nor run lengths"),
        ("text", "neither polygons nor run lengths"),
        ([[1, 1, 2, 2]], "a polygon of 4 numbers"),
        ([[1, 1, 2, 2, 3]], "a polygon of 5 numbers"),
        ([[[1, 1], [2, 2]]], "a polygon of 4 numbers"),
        ([[1, 1, 2, 2, 3, None]], "must be a list of numbers"),
        ([[1, 1, 2, 2, 3, True]], "must be a list of numbers"),
        ([[1, 1, 2, 2, 3, float("inf")]], "a corner of a polygon lies at inf"),
        ([[1, 1, 2, 2, 3, float("nan")]], "a corner of a polygon lies at nan"),
        ([[1, 1, 2, 2, 3, -1e9]], "a corner of a polygon lies at -1000000000.0"),
        ([[1, 1, 2, 2, 3, 10**400]], "a corner of a polygon lies at <a number of"),
        ({"counts": [600]}, "run lengths are"),
        ({"size": [20, 30]}, "run lengths are"),
        ({"size": [20, 30.0], "counts": [600]}, "run lengths are"),
        ({"size": [20, 30], "counts": [599]}, "run lengths cover 599 pixels"),
        ({"size": [30, 20], "counts": [600]}, "run lengths of size [30, 20]"),
    ],
)
def test_what_is_no_mask_is_refused(value, says):
    with pytest.raises(RecordRejected) as caught:
        cut(value)
    assert says in caught.value.message
