from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from pixellm.images import prepare_image
from tests.photos import load_photos
from tests.training_tables import memory_table, photo_rows, tiny
from workers.training.batches import BatchLimits, BatchMaker
from workers.training.examples import read_example
from workers.training.views import PLAIN, View, Views

SIDE = 56
WAYS = [View(mirrored, quarters) for mirrored, quarters in product((False, True), range(4))]


def a_thing_in_a_corner():
    """A picture of the model's own size, (40, 56), and its mask; each way round looks its own."""
    rgb = np.zeros((40, SIDE, 3), np.uint8)
    rgb[3:9, 5:30] = rgb[9:20, 5:11] = 255
    return prepare_image(rgb, SIDE), torch.from_numpy(rgb[..., 0] > 0)


@pytest.mark.parametrize("view", WAYS)
def test_a_mask_lies_on_its_thing_however_it_is_seen(view):
    image, mask = a_thing_in_a_corner()
    seen = view.of(image)
    height, width = seen.resized
    assert seen.resized == seen.original == ((40, 56) if view.quarters % 2 == 0 else (56, 40))
    assert torch.equal(seen.pixels[0, :height, :width] > 0, view.move(mask))
    assert not seen.pixels[:, height:].any()  # the padding, which is the mean colour
    assert not seen.pixels[:, :, width:].any()


def test_all_ways_to_lay_a_picture_down_are_different():
    _, mask = a_thing_in_a_corner()
    square = torch.zeros(56, 56, dtype=torch.bool)
    square[:40] = mask
    assert len({bytes(view.move(square).numpy()) for view in WAYS}) == 8


def test_light_changes_pixels_and_leaves_the_padding():
    image, _ = a_thing_in_a_corner()
    seen = View(contrast=1.5, brightness=0.25).of(image)
    torch.testing.assert_close(seen.pixels[:, :40], image.pixels[:, :40] * 1.5 + 0.25)
    assert not seen.pixels[:, 40:].any()


def examples():
    return [read_example(row) for row in photo_rows(8)]


def test_a_view_hangs_on_seed_picture_and_time_alone():
    some, views = examples(), Views("turned", jitter=0.2, seed=3)
    drawn = [views.draw(each, 7) for each in some]
    assert drawn == [views.draw(each, 7) for each in some]
    assert all(
        drawn != [other.draw(each, when) for each in some]
        for other, when in ((views, 8), (replace(views, seed=4), 7))
    )
    often = [views.draw(each, when) for each in some for when in range(10)]
    assert {view.quarters for view in often} == {0, 1, 2, 3}
    assert {view.mirrored for view in often} == {False, True}
    assert all(0.8 <= view.contrast < 1.2 and -0.2 <= view.brightness < 0.2 for view in often)
    assert not any(Views("mirrored").draw(each, 7).quarters for each in some)
    assert {Views().draw(each, 7) for each in some} == {PLAIN}


@pytest.mark.parametrize("place", ["question", "answer"])
@pytest.mark.parametrize("words", ["the dog on the LEFT", "what lies under it", "the topmost one"])
def test_what_is_said_of_directions_stays_true(place, words):
    views = Views("turned", seed=3)
    told = [replace(each, **{place: words}) for each in examples()]
    assert {views.draw(each, 7) for each in told} == {PLAIN}
    untold = [replace(each, question="a sleeping bright dog") for each in examples()]
    assert any(views.draw(each, 7) != PLAIN for each in untold)


def test_rows_about_a_picture_share_it_only_if_they_see_it_alike():
    store, photo = memory_table(), load_photos()[0]
    rows = [row for row in photo_rows(3) if row.image_uri.endswith(photo.name)][:2]
    plain = [read_example(row) for row in rows]
    views = next(
        views
        for views in (Views("turned", seed=seed) for seed in range(50))
        if views.draw(plain[0], 1).quarters == 1
    )
    told = [plain[0], replace(plain[1], question=f"on the left: {plain[1].question}")]
    maker = BatchMaker(tiny().tokenizer, SIDE, "", store, BatchLimits(400), views)
    alike = maker.make([maker.encode(each) for each in plain], range(2), 1).batch
    apart = maker.make([maker.encode(each) for each in told], range(2), 1).batch
    height, width = plain[0].size
    assert [tuple(masks.shape[1:]) for masks in alike.masks] == [(width, height)]
    assert [tuple(masks.shape[1:]) for masks in apart.masks] == [(width, height), (height, width)]
    view = views.draw(plain[0], 1)
    drawn = torch.from_numpy(np.stack([mask.pixels() for mask in plain[1].masks]))
    assert torch.equal(alike.masks[0][-len(drawn) :], view.move(drawn))
    assert torch.equal(apart.masks[1], drawn)
