import pytest
import torch

from pixellm.tiny import tiny_checkpoint
from pixellm.vision import (
    nearest_resize,
    resize_position_table,
    shrink_for_language,
    valid_pixels,
)


@pytest.fixture(scope="module")
def tower():
    return tiny_checkpoint(0).model.vision


def test_the_position_table_is_resized_with_the_official_shift():
    """Row 0, CLIP's class token, is read as the first patch, and the last patch as the class."""
    table = torch.arange(5.0)[:, None].expand(5, 3)
    resized = resize_position_table(table, 4)
    assert resized.shape == (17, 3)
    assert resized[-1, 0] == 4
    grid = resized[:-1, 0].reshape(4, 4)
    assert grid[0].tolist() == [0, 0.25, 0.75, 1]  # between rows 0 and 1 of the table
    assert grid[:, 0].tolist() == [0, 0.5, 1.5, 2]
    assert grid[3, 3] == 3


def test_a_position_table_of_the_right_size_stays_as_it_is():
    table = torch.randn(17, 8)
    assert torch.equal(resize_position_table(table, 4), table)


def test_a_half_precision_table_is_interpolated_in_fp32():
    table = torch.randn(17, 8).to(torch.bfloat16)
    exact = resize_position_table(table.float(), 7).to(torch.bfloat16)
    assert torch.equal(resize_position_table(table, 7), exact)


def test_pixels_off_the_image_are_padding_on_the_right_and_below():
    valid = valid_pixels([(2, 4), (4, 3)], 4)
    assert valid[0].tolist() == [[1] * 4] * 2 + [[0] * 4] * 2
    assert valid[1].tolist() == [[1, 1, 1, 0]] * 4


def test_a_patch_counts_when_its_top_left_pixel_does(tower):
    keys = tower.key_mask(valid_pixels([(15, 56), (14, 28)], 56))
    assert keys.shape == (2, 17)
    assert keys[:, 0].tolist() == [1, 1]  # the class token
    assert keys[0, 1:].reshape(4, 4).tolist() == [[1] * 4] * 2 + [[0] * 4] * 2
    assert keys[1, 1:].reshape(4, 4).tolist() == [[1, 1, 0, 0]] + [[0] * 4] * 3


def test_nearest_resize_shrinks_and_enlarges():
    mask = torch.eye(2)[None]
    assert nearest_resize(mask, 4)[0].tolist() == [[1, 1, 0, 0]] * 2 + [[0, 0, 1, 1]] * 2
    assert torch.equal(nearest_resize(nearest_resize(mask, 8), 2), mask)


def test_padded_patches_change_nothing_elsewhere(tower):
    valid = valid_pixels([(28, 56)], 56)
    pixels = torch.randn(1, 3, 56, 56)
    other = pixels.clone()
    other[:, :, 28:] = 7
    with torch.no_grad():
        for one, two in zip(tower(pixels, valid), tower(other, valid), strict=True):
            torch.testing.assert_close(one[:, :8], two[:, :8], rtol=1e-5, atol=1e-5)
            assert not torch.allclose(one[:, 8:], two[:, 8:])  # they are computed all the same


def test_features_are_the_hidden_states_that_hugging_face_counts(tower):
    pixels = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        ours = tower(pixels, torch.ones(2, 56, 56))
        theirs = tower.clip(pixels, output_hidden_states=True).hidden_states
    # the kept layers end at the highest feature: entry -2 of the whole tower is their last
    assert len(theirs) == len(tower.clip.encoder.layers) + 1
    torch.testing.assert_close(ours[0], theirs[-1][:, 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1], theirs[-2][:, 1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [2, 4, 8])
def test_the_language_models_tokens_are_a_bilinear_image_of_the_patches(grid):
    ramp = torch.arange(4.0).repeat(4)[None, :, None]  # (1, 16, 1), rising to the right
    small = shrink_for_language(ramp, grid)[0, :, 0].reshape(grid, grid)
    wanted = {2: [0.5, 2.5], 4: [0, 1, 2, 3], 8: [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]}
    assert all(row.tolist() == wanted[grid] for row in small)
