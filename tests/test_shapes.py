import math

import numpy as np
import pytest
from PIL import Image

from pixellm.drawn.shapes import AREA, SHAPES, Pose, corners, reach, silhouette, solid, stamp


def centred(radius: float, side: int, rotation: float = 0.0, mirrored: bool = False) -> Pose:
    return Pose(side / 2, side / 2, radius, rotation, mirrored)


def covered(shape: str, pose: Pose, side: int) -> np.ndarray:
    mark = stamp(shape, pose, side, side)
    canvas = np.zeros((side, side), dtype=np.float64)
    canvas[mark.region] = mark.cover / 255
    return canvas


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_covers_the_same_area_at_the_same_radius(shape):
    area = covered(shape, centred(60, 256), 256).sum()
    assert area == pytest.approx(AREA * 60**2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bounding_box_of_an_upright_shape_is_centred(shape):
    rows, columns = np.nonzero(covered(shape, centred(60, 256), 256) >= 0.5)
    assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(128, abs=1)
    assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(128, abs=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_turned_shape_extends_further_than_its_reach(shape):
    for turn in np.linspace(-0.22, 0.22, 23):
        for mirrored in (False, True):
            points = corners(silhouette(shape).edge, Pose(0, 0, 1, float(turn), mirrored))
            assert max(max(abs(x), abs(y)) for x, y in points) <= reach(shape, 0.22) + 0.005
    assert reach(shape, 0.22) < 1.35


@pytest.mark.parametrize("shape", SHAPES)
def test_a_small_shape_survives_a_mask_of_64_pixels(shape):
    fine = covered(shape, centred(13, 128, 0.1), 128)
    coarse = Image.fromarray((fine * 255).astype(np.uint8)).reduce(2)
    back = np.asarray(coarse.resize((128, 128), Image.Resampling.BILINEAR)) >= 128
    mask = fine >= 0.5
    assert (mask & back).sum() / (mask | back).sum() >= 0.92


@pytest.mark.parametrize("shape", SHAPES)
def test_the_quick_mask_agrees_with_the_drawn_one(shape):
    pose = centred(20, 128, 0.15, mirrored=True)
    quick, drawn = solid(shape, pose, 128), covered(shape, pose, 128) >= 0.5
    assert (quick & drawn).sum() / (quick | drawn).sum() >= 0.88


def test_the_silhouettes_are_told_apart_by_their_masks():
    masks = {shape: covered(shape, centred(30, 128), 128) >= 0.5 for shape in SHAPES}
    for one in SHAPES:
        for other in SHAPES[: SHAPES.index(one)]:
            shared = (masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum()
            assert shared < 0.9, (one, other)


def test_a_mirrored_fish_swims_the_other_way():
    left = covered("fish", centred(30, 128), 128)
    right = covered("fish", centred(30, 128, mirrored=True), 128)
    assert np.abs(left - right).max() > 0.9
    assert np.abs(left[:, ::-1] - right).mean() < 0.01


def test_rotation_turns_clockwise():
    ((x, y),) = corners(((1.0, 0.0),), Pose(0, 0, 1, math.pi / 2, False))
    assert (x, y) == pytest.approx((0, 1))


def test_ink_lies_on_the_shape_only():
    mark = stamp("mug", centred(20, 64), 64, 64)
    assert (mark.ink <= mark.cover).all()
    assert (mark.ink > 200).any()
    assert (mark.ink == 0).any()


def test_a_shape_over_the_border_is_cut():
    mark = stamp("star", Pose(2, 60, 20, 0, False), 64, 64)
    rows, columns = mark.region
    assert columns.start == 0
    assert rows.stop <= 64
    assert mark.cover.any()
