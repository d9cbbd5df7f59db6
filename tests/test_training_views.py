from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from pixellm.images import prepare_image
from pixellm.run_lengths import RunMask
from tests.photos import load_photos
from tests.training_tables import memory_table, photo_rows, tiny
from workers.training.batches import BatchLimits, BatchMaker
from workers.training.examples import read_example
from workers.training.views import PLAIN, WHOLE, View, Views, Window

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


@pytest.mark.parametrize("view", [replace(way, window=Window(0.1, 0.2, 0.7)) for way in WAYS])
def test_a_mask_lies_on_its_thing_in_a_window_of_any_picture(view):
    """The picture is larger than the model's side, so windows are cut before it is made small."""
    rgb = np.zeros((160, 320, 3), np.uint8)
    rgb[40:80, 80:120] = rgb[60:120, 80:100] = 255
    mask = torch.from_numpy(rgb[..., 0] > 0)[None]
    image = prepare_image(view.cut(rgb), SIDE)
    seen, moved = view.of(image), view.move(mask)
    assert image.original == (112, 4 * SIDE)
    assert seen.original == tuple(moved.shape[1:])
    height, width = seen.resized
    small = torch.nn.functional.interpolate(moved[None].float(), size=seen.resized, mode="area")
    assert torch.equal(seen.pixels[0, :height, :width] > 0, small[0, 0] > 0.5)
    assert moved.sum() == mask.sum()  # all of it lies in the window


def test_windows_of_a_side_have_all_places_and_at_least_a_pixel():
    assert Window(0.5, 0.5, 0.5).slices((10, 21)) == (slice(5, 10), slice(10, 20))
    assert Window(0.75, 0.0, 0.25).slices((4, 1)) == (slice(3, 4), slice(0, 1))
    assert Window(0.9, 0.9, 0.1).slices((3, 3)) == (slice(2, 3), slice(2, 3))
    assert WHOLE.slices((7, 9)) == (slice(0, 7), slice(0, 9))


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


def a_thing(rows, columns, size=(100, 100)):
    """An example whose one mask is a rectangle."""
    pixels = np.zeros(size, np.bool_)
    pixels[rows, columns] = True
    first = next(each for each in examples() if each.masks)
    return replace(first, size=size, masks=(RunMask.from_pixels(pixels),))


def test_windows_show_half_of_every_mask_or_the_whole_picture_is_seen():
    views, small = Views(zoom=4, seed=3), a_thing(slice(0, 10), slice(0, 10))
    windows = [views.draw(small, when).window for when in range(400)]
    near = [window for window in windows if window != WHOLE]
    assert 0 < len(near) < 400  # a corner lies outside of most of them
    shown = [small.masks[0].pixels()[each.slices((100, 100))].mean() for each in near]
    assert len(set(near)) > len(near) / 2
    for window in near:
        inside = small.masks[0].pixels()[window.slices((100, 100))].sum()
        assert inside >= small.masks[0].area / 2
    assert min(shown) > 0
    assert {each.top != each.left for each in near} == {True}
    parts = [small.masks[0].pixels()[each.slices((100, 100))].sum() / 100 for each in near]
    assert min(parts) < 0.6, "half is enough"
    middle = a_thing(slice(49, 51), slice(49, 51))
    free = [views.draw(middle, when).window for when in range(400)]
    assert all(0.25 <= window.side <= 1 for window in free)
    assert max(window.side for window in free) > 0.9 > 0.3 > min(window.side for window in free)
    assert sum(window != WHOLE for window in free) > 200
    both = replace(middle, masks=(*middle.masks, *small.masks))
    assert [views.draw(both, when).window for when in range(400)].count(WHOLE) >= windows.count(
        WHOLE
    )


def test_questions_about_a_picture_share_its_window_where_they_can():
    views, middle = Views(zoom=2, seed=3), a_thing(slice(48, 52), slice(48, 52))
    nothing = replace(middle, item_id="nothing", question="a fish", masks=())
    for when in range(20):
        window = views.draw(nothing, when).window
        assert views.draw(middle, when).window in (window, WHOLE)
        assert window.side >= 0.5
    assert {Views(zoom=1).draw(nothing, when).window for when in range(20)} == {WHOLE}


@pytest.mark.parametrize("place", ["question", "answer"])
@pytest.mark.parametrize("words", ["the dog on the LEFT", "what lies under it", "the topmost one"])
def test_what_is_said_of_directions_stays_true(place, words):
    views = Views("turned", zoom=4, seed=3)
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


@pytest.mark.parametrize("place", ["question", "answer"])
@pytest.mark.parametrize(
    "words",
    [
        *("the largest of them", "in the Middle", "a mug on the far side", "at the CENTRE"),
        *("the bigger of the two dogs", "the man in front", "the outermost ring", "the 3rd car"),
        *("between the cars", "a corner", "the edge", "its border", "the background", "more than"),
        *(
            "the only one",
            "the last",
            "the second",
            "the other mug",
            "nearby houses",
            "the odd one",
        ),
        *("smaller mugs", "a taller man", "the darker of them", "heavier", "further away"),
        *("a nearer boat", "closer to us", "fewer legs", "the centered cup", "mid-air", "midway"),
        *(
            "front_wheel",
            "wheel_front",
            "a front2",
            "rear_window2",
            "the smallest_dog",
            "a frontal view",
            "the midground",
        ),
        *("another mug", "the final one", "the better", "a worse one", "the worst", "distances"),
        *("the eleventh car", "the twelfth", "midst"),
    ],
)
def test_what_is_said_of_the_whole_picture_is_seen_in_the_whole(place, words):
    views = Views("mirrored", zoom=4, seed=3)
    middle = a_thing(slice(48, 52), slice(48, 52))
    told = replace(middle, **{place: words})
    drawn = [views.draw(told, when) for when in range(40)]
    assert {view.window for view in drawn} == {WHOLE}
    assert any(view.mirrored for view in drawn)


@pytest.mark.parametrize(
    "words",
    [
        *("all mugs of a farmer", "the backpack", "a rearview mirror", "a centipede", "midges"),
        *("a frontier post", "the bordeaux", "a closet", "the sidecar", "a flower", "a longboat"),
        *("an earring", "a nexus", "mothers", "lesson", "a tower", "the farm"),
        *("an overcoat", "the leftovers", "a topping", "underwear", "an Easter egg"),
        *("a bright_red cup", "an upright piano", "the brightly lit", "a cleft chin", "copyrights"),
        *("frightened birds", "the rightful king", "outright joy", "easters", "a wheelwright"),
    ],
)
def test_a_word_that_begins_like_a_place_or_a_comparison_is_none(words):
    middle = a_thing(slice(48, 52), slice(48, 52))
    plain = replace(middle, question=words, answer="It is [SEG].")
    views = Views("mirrored", zoom=4, seed=3)
    assert any(views.draw(plain, when).window != WHOLE for when in range(40))
    assert any(views.draw(plain, when).mirrored for when in range(40))


@pytest.mark.parametrize(
    "words",
    [
        *("the leftmost mug", "on the right-hand side", "the northwest roof", "to the southeast"),
        *("a northern roof", "turned counterclockwise", "the topmost book", "looking leftwards"),
        *("the westernmost house", "left_arm", "topleft", "an eastbound lane", "the underside"),
        *("lower_left", "a westerly wind", "overhead", "the upper-right corner", "lefthanded"),
        *("front_left", "arm_right2", "left1", "LeftArm", "armright", "leftest", "a lefty"),
        *("lefttop corner", "righthander", "the westmost", "the eastside roof", "windowRight"),
        *("leftish", "top2"),
        *("beneath it", "above", "underneath", "anticlockwise", "clockwise", "bottomside", "below"),
    ],
)
def test_what_names_a_direction_is_never_mirrored(words):
    told = replace(a_thing(slice(48, 52), slice(48, 52)), question=words)
    views = Views("mirrored", zoom=4, seed=3)
    assert not any(views.draw(told, when).mirrored for when in range(40))


def test_a_batch_holds_windows_of_pictures_with_masks_of_their_size():
    store, views = memory_table(), Views("mirrored", zoom=3, seed=5)
    some = [read_example(row) for row in photo_rows(2)]
    some[1::2] = [replace(each, question="the largest") for each in some[1::2]]  # seen whole
    maker = BatchMaker(tiny().tokenizer, SIDE, "", store, BatchLimits(400), views)
    batch = maker.make([maker.encode(each) for each in some], range(len(some)), 2).batch
    seen = [views.draw(each, 2) for each in some]
    assert all(view.window == WHOLE for view in seen[1::2])
    assert sum(view.window != WHOLE for view in seen) > 1
    pictures = iter(zip(batch.pixels, batch.masks, strict=True))
    for photo, view, other in zip(load_photos(), seen[::2], seen[1::2], strict=True):
        drawn = torch.from_numpy(np.stack(photo.masks))
        for each in dict.fromkeys((view, other)):
            pixels, masks = next(pictures)
            near = prepare_image(each.cut(photo.rgb), SIDE)
            assert torch.equal(pixels, each.of(near).pixels)
            assert torch.equal(masks[: len(drawn)], each.move(drawn))
    assert next(pictures, None) is None


def test_a_window_that_is_hard_to_find_is_looked_for_several_times():
    """A tenth of each side in a corner: of the windows there are, one in eleven shows it."""
    views, small = Views(zoom=4, seed=3), a_thing(slice(0, 10), slice(0, 10))
    near = [views.draw(small, when).window != WHOLE for when in range(400)]
    assert sum(near) > 200
