"""Masks that are cut out where they are, against those that are resized as a whole."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pixellm.cutting import axis, cut_masks
from pixellm.masks import mask_scores, postprocess_masks
from pixellm.run_lengths import RunMask

GEOMETRIES = [
    # small side, square's side, resized, original
    (112, 448, (336, 448), (480, 640)),
    (112, 448, (448, 299), (1000, 667)),
    (64, 128, (128, 128), (128, 128)),
    (64, 128, (96, 128), (30, 40)),  # smaller than the square
    (32, 56, (56, 1), (90, 2)),
    (32, 28, (28, 20), (28, 20)),  # a square smaller than the mask
    (32, 56, (1, 56), (1, 700)),
]


def smooth(count, side, seed, shift=0.0):
    torch.manual_seed(seed)
    coarse = torch.randn(count, 1, 6, 6) * 4 + shift
    return F.interpolate(coarse, (side, side), mode="bicubic")[:, 0]


def whole(low, resized, original, side):
    return postprocess_masks(low, resized, original, side)


@pytest.fixture(params=["host", "device"])
def where(request, monkeypatch):
    """Where masks are cut one by one, and where all of an image are cut together."""
    monkeypatch.setattr("pixellm.cutting._on_host", lambda _: request.param == "host")


@pytest.mark.usefixtures("where")
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("shift", [-6.0, -2.0, 0.0, 8.0])
def test_masks_and_scores_are_those_of_the_whole(geometry, shift):
    small, side, resized, original = geometry
    low = smooth(5, small, 3, shift)
    logits = whole(low, resized, original, side)
    scores = mask_scores(logits)
    for cut, truth, score in zip(
        cut_masks(low, resized, original, side), logits, scores, strict=True
    ):
        sure = truth.abs() > 1e-4
        assert cut.runs.size == original
        assert np.array_equal(cut.runs.pixels()[sure], (truth > 0).numpy()[sure])
        assert cut.score == pytest.approx(float(score), abs=1e-4)
        # the same bytes for the same pixels, also where a mask goes on at the head of a column
        again = RunMask.from_pixels(cut.runs.pixels())
        assert np.array_equal(cut.runs.counts, again.counts)


@pytest.mark.parametrize("place", [(0, 0), (0, 111), (111, 0), (111, 111), (56, 40), (83, 111)])
def test_a_mask_of_one_small_pixel_is_found_wherever_it_lies(place):
    low = torch.full((1, 112, 112), -5.0)
    low[0, *place] = 5.0
    _, side, resized, original = GEOMETRIES[0]
    (cut,) = cut_masks(low, resized, original, side)
    logits = whole(low, resized, original, side)
    assert np.array_equal(cut.runs.pixels(), (logits[0] > 0).numpy())
    assert cut.score == pytest.approx(float(mask_scores(logits)), abs=5e-6)


def test_what_lies_in_the_padding_only_is_empty():
    low = torch.full((1, 112, 112), -5.0)
    low[0, 100:] = 5.0
    (cut,) = cut_masks(low, (336, 448), (480, 640), 448)
    assert (cut.runs.area, cut.score) == (0, 0.0)


def test_an_empty_mask_scores_nothing_and_even_odds_are_outside():
    for value in (-3.0, 0.0):
        (cut,) = cut_masks(torch.full((1, 112, 112), value), (336, 448), (480, 640), 448)
        assert (cut.runs.area, cut.score) == (0, 0.0)


def test_specks_that_no_pixel_of_a_large_image_falls_on_score_nothing():
    """Their window is nearly all of 24 million pixels, and nothing of it may be left over."""
    low = torch.full((1, 32, 32), -3.0)
    low[0, 1, 1], low[0, 19, 30] = 0.3, 0.303
    (cut,) = cut_masks(low, (37, 56), (4001, 6013), 56)
    assert (cut.runs.area, cut.score) == (0, 0.0)


def test_what_lies_around_a_thin_line_takes_nothing_from_its_score():
    """Each column has one pixel of the mask, and thousands that are not of it."""
    from pixellm import cutting

    logits = torch.full((2, 60, 60_000), -1.0)
    logits[0, range(60), range(0, 60_000, 1_000)] = 2.0
    above = cutting._sum_above_half(logits)
    assert above == [pytest.approx(60 * (torch.tensor(2.0).sigmoid().item() - 0.5), rel=1e-6), 0.0]


def test_masks_together_and_alone_are_the_same():
    """On a CPU each mask has its window, elsewhere all of an image share one."""
    from pixellm import cutting

    small, side, resized, original = GEOMETRIES[0]
    low = smooth(4, small, 1, -3.0)
    rows, columns = (axis(small, side, resized[i], original[i], low.device) for i in (0, 1))
    alone = cut_masks(low, resized, original, side)
    for one, other in zip(alone, cutting._cut(low, rows, columns), strict=True):
        assert np.array_equal(one.runs.pixels(), other.runs.pixels())
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_an_image_larger_than_what_is_cut_at_once_is_cut_mask_by_mask(monkeypatch):
    monkeypatch.setattr("pixellm.cutting._on_host", lambda _: False)
    small, side, resized, original = GEOMETRIES[0]
    low = smooth(3, small, 2, -2.0)
    together = cut_masks(low, resized, original, side)
    monkeypatch.setattr("pixellm.cutting.PIXELS_AT_ONCE", original[0] * original[1] - 1)
    for one, other in zip(cut_masks(low, resized, original, side), together, strict=True):
        assert np.array_equal(one.runs.pixels(), other.runs.pixels())


@pytest.mark.usefixtures("where")
def test_masks_of_half_precision_are_cut_in_single():
    small, side, resized, original = GEOMETRIES[0]
    low = smooth(2, small, 5).bfloat16()
    cuts = (cut_masks(each, resized, original, side) for each in (low, low.float()))
    for half, single in zip(*cuts, strict=True):
        assert np.array_equal(half.runs.counts, single.runs.counts)
        assert half.score == single.score


def test_no_masks_are_no_cuts():
    assert cut_masks(torch.zeros(0, 112, 112), (336, 448), (480, 640), 448) == []
