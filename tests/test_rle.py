import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy import ndimage

from pixellm.run_lengths import RunMask
from tests.photos import load_photos
from workers.errors import ExportError
from workers.labels import rle
from workers.labels.rle import (
    decode_mask,
    decode_runs,
    fill_polygons,
    find_load_problem,
    measure_mask,
    measure_rle,
    read_runs,
    run_lengths,
)


def encode(masks):
    return rle.encode_masks([RunMask.from_pixels(mask) for mask in masks])


def test_masks_of_real_photos_come_back_pixel_by_pixel():
    for photo in load_photos():
        codes = encode(photo.masks)
        for mask, code in zip(photo.masks, codes, strict=True):
            assert code.size == mask.shape
            assert np.array_equal(decode_mask(code.size, code.counts), mask)


def test_masks_can_stay_runs_when_they_are_decoded():
    for mask in load_photos()[2].masks:
        runs = RunMask.from_pixels(mask)
        (code,) = rle.encode_masks([runs])
        again = decode_runs(code.size, code.counts)
        assert np.array_equal(again.starts, runs.starts)
        assert np.array_equal(again.ends, runs.ends)


def test_a_mask_that_is_not_symmetric_is_not_transposed():
    mask = np.zeros((3, 5), dtype=bool)
    mask[0, 1:4] = True
    (code,) = encode(mask[None])
    # down the columns: 3 off, then (1 on, 2 off) three times, and 3 off more at the end
    assert run_lengths(code.counts).tolist() == [3, 1, 2, 1, 2, 1, 5]
    assert code.bbox == (1.0, 0.0, 3.0, 1.0)


def test_a_mask_that_is_a_transposed_view_is_encoded_as_it_looks():
    mask = np.zeros((5, 3), dtype=bool)
    mask[1:4, 0] = True
    (code,) = encode(mask.T[None])
    assert np.array_equal(decode_mask((3, 5), code.counts), mask.T)


def test_area_and_box_are_those_of_the_pixels():
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:5, 3:9] = True
    mask[4, 4] = False
    (code,) = encode(mask[None])
    assert (code.area, code.bbox) == (17, (3.0, 2.0, 6.0, 3.0))
    assert measure_mask(mask) == measure_rle(code.size, code.counts) == (17, code.bbox)


def test_an_empty_mask_has_no_area_no_parts_and_no_box():
    (code,) = encode(np.zeros((1, 4, 6), dtype=bool))
    assert (code.area, code.n_components, code.touches_border) == (0, 0, False)
    assert code.bbox == (0.0, 0.0, 0.0, 0.0)


def test_no_masks_give_no_codes():
    assert encode(np.zeros((0, 4, 6), dtype=bool)) == ()


def test_parts_are_counted_and_corners_connect():
    mask = np.zeros((8, 8), dtype=bool)
    mask[1, 1] = mask[2, 2] = True
    mask[5:7, 5:7] = True
    assert encode(mask[None])[0].n_components == 2


def test_parts_of_any_mask_are_those_that_scipy_finds():
    rng = np.random.default_rng(3)
    for _ in range(500):
        mask = rng.random(rng.integers(1, 14, 2)) < rng.random()
        parts = ndimage.label(mask, np.ones((3, 3)))[1]
        assert encode(mask[None])[0].n_components == parts


@pytest.mark.parametrize(("y", "x"), [(0, 3), (7, 3), (3, 0), (3, 7)])
def test_each_border_counts_as_border(y, x):
    mask = np.zeros((8, 8), dtype=bool)
    mask[3, 3] = True
    assert not encode(mask[None])[0].touches_border
    mask[y, x] = True
    assert encode(mask[None])[0].touches_border


def test_the_largest_overlap_is_with_another_mask():
    masks = np.zeros((3, 4, 4), dtype=bool)
    masks[0, :2] = masks[1, :1] = masks[2, 3] = True
    assert [code.max_iou_other for code in encode(masks)] == [0.5, 0.5, 0.0]


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(3)
    for _ in range(50):
        mask = rng.random((rng.integers(1, 40), rng.integers(1, 40))) < rng.random()
        code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        runs = run_lengths(code["counts"].decode())
        assert (runs.sum(), runs[1::2].sum()) == (mask.size, mask.sum())


@pytest.mark.parametrize("counts", ["", "o", "ab\x7f", "\x10", "mask", "ooooooooooooooo0"])
def test_text_that_is_no_code_is_refused(counts):
    with pytest.raises(ExportError):
        decode_mask((4, 4), counts)


def pack(runs):
    """The compressed form, also of runs that no mask has."""
    text = ""
    for at, run in enumerate(runs):
        left = run - runs[at - 2] if at > 2 else run
        more = True
        while more:
            five, left = left & 0x1F, left >> 5
            more = left != (-1 if five & 0x10 else 0)
            text += chr(48 + (five | 0x20 * more))
    return text


def test_runs_are_packed_as_pycocotools_packs_them():
    runs = [3, 40, 1, 2_000, 70, 6]
    code = coco_mask.frPyObjects({"size": [10, 212], "counts": runs}, 10, 212)
    assert pack(runs) == code["counts"].decode()
    assert run_lengths(pack([2**54, -(2**54), 5])).tolist() == [2**54, -(2**54), 5]


@pytest.mark.parametrize(
    "runs",
    [[20, -4], [-4, 20], [17], [15], [2**54] * 1024 + [16]],
    ids=["negative", "negative first", "more", "fewer", "round all numbers"],
)
def test_runs_that_do_not_cover_the_mask_are_refused(runs):
    with pytest.raises(ExportError, match="cover"):
        decode_mask((4, 4), pack(runs))


def test_a_size_below_zero_is_refused():
    for read in (read_runs, measure_rle):
        with pytest.raises(ExportError, match="cover"):
            read((-2, -2), "4")


@pytest.mark.parametrize("counts", ["p", "0p", "/0", "o" * 12 + "0"])
def test_what_can_be_no_count_is_refused_before_it_is_added_up(counts):
    with pytest.raises(ExportError, match=r"is not a compressed|more than 2"):
        run_lengths(counts)
    assert run_lengths("o" * 11 + "0")[0] == 2**55 - 1


def test_a_code_for_another_size_is_refused_before_it_is_unfolded():
    (code,) = encode(np.ones((1, 50, 50), dtype=bool))
    with pytest.raises(ExportError, match="2500 pixels"):
        decode_mask((4, 4), code.counts)


@pytest.mark.parametrize("numbers", [[0, 0, 4, 4], [0, 0, 4, 4, 0, 4, 2]])
def test_a_polygon_with_two_corners_or_half_a_corner_is_refused(numbers):
    with pytest.raises(ExportError, match="three corners"):
        fill_polygons([numbers], (8, 8))


def test_a_file_that_pycocotools_refuses_is_found_out(tmp_path, capsys):
    broken = tmp_path / "coco.json"
    broken.write_text(json.dumps({"images": [{"id": 1}], "annotations": [{"id": 1}]}))
    assert "KeyError" in find_load_problem(broken)
    image = {"id": 1, "height": 4, "width": 4}
    whole = {"id": 1, "image_id": 1, "category_id": 1}  # without what its mask is made of
    broken.write_text(json.dumps({"images": [image], "annotations": [whole]}))
    assert "'segmentation'" in find_load_problem(broken)
    assert capsys.readouterr().out == ""


def test_plain_and_compressed_run_lengths_are_the_same_mask():
    for photo in load_photos():
        for mask, code in zip(photo.masks, encode(photo.masks), strict=True):
            plain = RunMask.from_pixels(mask).counts.tolist()
            for counts in (plain, code.counts):
                runs = read_runs(code.size, counts)
                assert np.array_equal(runs.pixels(), mask)
                assert runs.counts.tolist() == plain


@pytest.mark.parametrize(
    ("counts", "same"),
    [
        ([0, 6], [0, 6]),
        ([6], [6]),
        ([6, 0], [6]),
        ([2, 0, 4], [6]),
        ([1, 2, 0, 1, 2], [1, 3, 2]),
        ([0, 0, 0, 2, 0, 0, 4], [0, 2, 4]),
        ([1, 1, 1, 0, 1, 2], [1, 1, 2, 2]),
    ],
)
def test_runs_of_no_pixels_say_nothing(counts, same):
    runs = read_runs((2, 3), counts)
    assert runs.counts.tolist() == same
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(3, 2).T
    assert np.array_equal(runs.pixels(), pixels)


@pytest.mark.parametrize("counts", [[], [5], [7], [-1, 7], [2**40], [6.0], [True, 5], ["6"], ""])
def test_run_lengths_that_do_not_cover_the_picture_are_refused(counts):
    with pytest.raises(ExportError):
        read_runs((2, 3), counts)
