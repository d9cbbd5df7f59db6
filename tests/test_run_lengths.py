import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pixellm.run_lengths import RunMask
from tests.photos import load_photos


def random_masks():
    rng = np.random.default_rng(5)
    for height, width in [(1, 1), (1, 7), (7, 1), (5, 6), (33, 20)]:
        for share in (0.0, 0.1, 0.5, 1.0):
            yield rng.random((height, width)) < share


def test_pixels_come_back_as_they_were():
    masks = [*random_masks(), *(mask for photo in load_photos() for mask in photo.masks)]
    for mask in masks:
        runs = RunMask.from_pixels(mask)
        assert np.array_equal(runs.pixels(), mask)
        assert runs.area == mask.sum()
        assert runs.counts.sum() == mask.size
        again = RunMask.from_counts(runs.size, runs.counts)
        assert (again.starts.tolist(), again.ends.tolist()) == (
            runs.starts.tolist(),
            runs.ends.tolist(),
        )


def test_an_empty_mask_has_no_pixel():
    assert RunMask.empty((3, 2)).counts.tolist() == [6]
    assert not RunMask.empty((3, 2)).pixels().any()


def test_counts_are_those_of_coco():
    for mask in random_masks():
        counts = RunMask.from_pixels(mask).counts.tolist()
        code = coco_mask.frPyObjects({"size": list(mask.shape), "counts": counts}, *mask.shape)
        assert code == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_pixels_are_counted_down_the_columns():
    mask = np.zeros((3, 2), dtype=bool)
    mask[2, 0] = mask[0, 1] = True  # foot of a column and head of the next: one run
    runs = RunMask.from_pixels(mask)
    assert (runs.starts.tolist(), runs.ends.tolist()) == ([2], [4])
    assert runs.counts.tolist() == [2, 2, 2]


@pytest.mark.parametrize(("value", "counts"), [(False, [6]), (True, [0, 6])])
def test_a_mask_of_one_value(value, counts):
    assert RunMask.from_pixels(np.full((2, 3), value)).counts.tolist() == counts
