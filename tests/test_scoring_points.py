import numpy as np
import pytest
import torch

from pixellm.matching import assign, draw_points
from tests.muse_reference import pairing_cost
from tests.photos import load_photos
from tests.scoring import box, runs
from workers.scoring.muse import LOGIT, compute_costs
from workers.scoring.points import find_places, sample_masks


def at(mask, *points):
    places = find_places(torch.tensor(points), mask.shape)
    return sample_masks(runs(mask), places)[0].tolist()


def test_in_the_middle_of_a_pixel_it_is_that_pixel_and_between_them_a_share_of_each():
    mask = box(0, 0, 2, 1, side=4)  # pixels (0, 0) and (1, 0) of 4 x 4
    assert at(mask, (1.5 / 4, 0.5 / 4), (2.5 / 4, 0.5 / 4)) == [1, 0]
    assert at(mask, (2 / 4, 0.5 / 4), (2 / 4, 1 / 4)) == [0.5, 0.25]


def test_beyond_the_border_there_is_nothing():
    everything = np.ones((4, 4), bool)
    assert at(everything, (0.0, 0.5), (0.0, 0.0), (1.0, 1.0)) == [0.5, 0.25, 0.25]


@pytest.mark.parametrize("number", [0, 2, 4])
def test_costs_are_those_of_the_reference_for_the_same_masks_as_logits(number):
    photo = load_photos()[number]
    moved = [np.roll(mask, (9, 4), (0, 1)) for mask in photo.masks]
    points = draw_points(2_000, seed=1)
    places = find_places(points, moved[0].shape)
    found = compute_costs(runs(*photo.masks), runs(*moved), places)
    pred = torch.from_numpy(np.stack(moved)).float() * 2 * LOGIT - LOGIT
    expected = pairing_cost(pred, torch.from_numpy(np.stack(photo.masks)), points)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert assign(found) == assign(expected)
