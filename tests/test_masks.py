import numpy as np
import pytest
import torch

from pixellm.masks import combine_scales, mask_scores, postprocess_masks

SIZES = {0: ((336, 448), (90, 120)), 1: ((448, 302), (150, 101))}


def stretch(new, old):
    """(new, old) matrix of half-pixel bilinear interpolation, written out independently."""
    matrix = np.zeros((new, old))
    for row in range(new):
        at = max(0.0, (row + 0.5) * old / new - 0.5)
        left = min(int(at), old - 1)
        matrix[row, left] += 1 - (at - left)
        matrix[row, min(left + 1, old - 1)] += at - left
    return matrix


def resize(mask, size):
    return stretch(size[0], mask.shape[0]) @ mask @ stretch(size[1], mask.shape[1]).T


def test_scales_are_averaged_at_the_finest_size(tensors):
    coarse = tensors["gen0.decoder_masks_l0"]
    fine = torch.randn(5, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    low = combine_scales([coarse, fine], 128)
    for n in range(5):
        wanted = 0.5 * resize(coarse[n, 0].numpy(), (128, 128)) + 0.5 * fine[n, 0].numpy()
        np.testing.assert_allclose(low[n], wanted, atol=1e-4)


def test_scales_meet_at_the_asked_size_and_one_scale_weighs_one():
    small = torch.randn(2, 1, 16, 16)
    assert combine_scales([small, torch.randn(2, 1, 32, 32)], 128).shape == (2, 128, 128)
    assert torch.equal(combine_scales([small], 16), small[:, 0])


@pytest.mark.parametrize("image", [0, 1])
def test_masks_come_into_the_frame_of_the_original(image):
    resized, original = SIZES[image]
    low = torch.randn(2, 128, 128, generator=torch.Generator().manual_seed(image)) * 10
    masks = postprocess_masks(low, resized, original, 448)
    for n in range(2):
        square = resize(low[n].numpy(), (448, 448))
        wanted = resize(square[: resized[0], : resized[1]], original)
        np.testing.assert_allclose(masks[n], wanted, atol=1e-3)


@pytest.mark.parametrize("image", [0, 1])
def test_the_decoder_masks_of_the_fixture_lead_to_its_masks(tensors, image):
    # The fine scale is stored at half its resolution, so borders are only nearly the same.
    stored = tensors[f"gen{image}.decoder_masks_l1"]
    near = [tensors[f"gen{image}.decoder_masks_l0"], stored.repeat_interleave(2, 2)]
    near[1] = near[1].repeat_interleave(2, 3)
    ours = postprocess_masks(combine_scales(near, 128), *SIZES[image], 448) > 0
    official = tensors[f"gen{image}.pred_masks"] > 0
    assert ours.shape == official.shape
    overlap = (ours & official).sum() / (ours | official).sum()
    assert overlap > 0.85


@pytest.mark.parametrize("name", ["tf", "gen0", "gen1"])
def test_scores_equal_the_official_ones(tensors, name):
    scores = mask_scores(tensors[f"{name}.pred_masks"])
    torch.testing.assert_close(scores, tensors[f"{name}.mask_scores"])


def test_an_empty_mask_scores_zero():
    assert mask_scores(torch.full((1, 3, 3), -5.0)).tolist() == [0.0]


def test_a_pixel_of_even_odds_belongs_to_no_mask():
    scores = mask_scores(torch.tensor([[[0.0, 2.0]], [[0.0, 0.0]]]))
    torch.testing.assert_close(scores, torch.tensor([2.0, -1e9]).sigmoid())


def test_scores_of_half_precision_are_summed_in_single():
    logits = torch.randn(1, 300, 300, generator=torch.Generator().manual_seed(4)).bfloat16()
    assert torch.equal(mask_scores(logits), mask_scores(logits.float()))


def test_no_masks_stay_no_masks():
    low = combine_scales([torch.zeros(0, 1, 64, 64), torch.zeros(0, 1, 128, 128)], 128)
    masks = postprocess_masks(low, (336, 448), (90, 120), 448)
    assert masks.shape == (0, 90, 120)
    assert mask_scores(masks).shape == (0,)


def test_half_precision_is_kept_and_computed_in_single():
    low = torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(3)).bfloat16()
    masks = postprocess_masks(low, (448, 448), (448, 448), 448)
    assert masks.dtype == torch.bfloat16
    exact = postprocess_masks(low.float(), (448, 448), (448, 448), 448)
    assert torch.equal(masks, exact.bfloat16())


def test_a_very_narrow_image_has_masks_too():
    assert postprocess_masks(torch.zeros(1, 128, 128), (1, 448), (1, 5000), 448).shape == (
        1,
        1,
        5000,
    )
