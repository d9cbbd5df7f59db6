import numpy as np
import pytest
import torch

from pixellm.errors import ImageError
from pixellm.images import prepare_image, resize_longest_side


@pytest.mark.parametrize("image", [0, 1])
def test_resized_images_equal_the_official_ones_bit_for_bit(tensors, image):
    raw = tensors[f"image{image}.raw_u8"].numpy()
    wanted = tensors[f"image{image}.resized_u8"].numpy()
    np.testing.assert_array_equal(resize_longest_side(raw, 448), wanted)


@pytest.mark.parametrize("image", [0, 1])
def test_pixels_are_normalised_with_the_statistics_of_sam(tensors, image):
    resized = tensors[f"image{image}.resized_u8"].float()
    mean = torch.tensor([123.675, 116.28, 103.53])
    std = torch.tensor([58.395, 57.12, 57.375])
    prepared = prepare_image(tensors[f"image{image}.raw_u8"].numpy(), 448)
    height, width = prepared.resized
    assert (height, width) == resized.shape[:2]
    assert prepared.original == tensors[f"image{image}.raw_u8"].shape[:2]
    valid = prepared.pixels[:, :height, :width]
    assert torch.equal(valid, ((resized - mean) / std).permute(2, 0, 1))


def test_padding_is_zero_and_lies_right_and_below():
    wide = prepare_image(np.full((10, 40, 3), 255, np.uint8), 64)
    assert wide.pixels.shape == (3, 64, 64)
    assert wide.pixels.dtype == torch.float32
    assert wide.resized == (16, 64)
    assert wide.pixels[:, 16:].abs().max() == 0
    assert wide.pixels[:, :16].min() > 0


@pytest.mark.parametrize(
    ("shape", "resized"),
    [((1, 5000), (1, 448)), ((5000, 1), (448, 1)), ((1, 1), (448, 448)), ((448, 3), (448, 3))],
)
def test_no_side_of_a_strange_image_vanishes(shape, resized):
    prepared = prepare_image(np.zeros((*shape, 3), np.uint8), 448)
    assert prepared.resized == resized
    assert prepared.original == shape


def test_arrays_that_are_views_can_be_given():
    rgb = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)[::-1, ::2]
    np.testing.assert_array_equal(resize_longest_side(rgb, 4), rgb)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_rgb_image_is_refused(array):
    with pytest.raises(ImageError, match="uint8"):
        prepare_image(array, 448)
