import numpy as np
import pytest

from tests.photos import load_photos
from tests.scoring import box, runs
from workers.scoring.regions import common_areas, cut_out, join_masks


def odd_masks():
    """Masks whose runs begin and end everywhere, the borders of the picture included."""
    chance = np.random.default_rng(3)
    blank, full = np.zeros((7, 5), bool), np.ones((7, 5), bool)
    noise = [chance.random((7, 5)) < share for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    columns = blank.copy()
    columns[:, 1:3] = True
    return [blank, full, columns, ~columns, *noise]


def test_boxes_have_the_pixels_in_common_that_one_counts():
    one, other = runs(box(0, 0, 4, 4), box(2, 3, 9, 9))
    assert common_areas([one, other], [one, other]).tolist() == [[16, 2 * 1], [2 * 1, 6 * 7]]


@pytest.mark.parametrize("one", odd_masks())
@pytest.mark.parametrize("other", odd_masks())
def test_on_runs_it_is_what_it_is_on_pixels(one, other):
    ours, theirs = runs(one, other)
    assert common_areas([ours], [theirs]) == [[(one & other).sum()]]
    for made, pixels in (
        (join_masks([ours, theirs]), one | other),
        (cut_out(ours, theirs), one & ~other),
    ):
        (expected,) = runs(pixels)
        assert made.size == expected.size
        assert made.starts.tolist() == expected.starts.tolist()
        assert made.ends.tolist() == expected.ends.tolist()


def test_each_mask_of_one_list_is_held_against_each_of_the_other():
    masks, others = odd_masks(), odd_masks()[::2]
    expected = [[(one & other).sum() for other in others] for one in masks]
    assert common_areas(runs(*masks), runs(*others)).tolist() == expected
    assert common_areas([], runs(*others)).shape == (0, len(others))
    assert common_areas(runs(*masks), []).shape == (len(masks), 0)


def test_many_masks_of_photos_join_to_what_any_of_them_has():
    for photo in load_photos():
        (expected,) = runs(np.any(photo.masks, axis=0))
        made = join_masks(runs(*photo.masks))
        assert made.counts.tolist() == expected.counts.tolist()
