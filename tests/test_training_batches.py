from dataclasses import replace

import numpy as np
import pytest
import torch

from pixellm.images import prepare_image
from pixellm.losses import LossWeights
from pixellm.prompts import IGNORE_INDEX
from pixellm.training import count_targets, training_losses
from tests.photos import load_photos
from tests.training_tables import (
    PHOTOS,
    memory_table,
    photo_rows,
    put_photos,
    tiny,
    tiny_maker,
)
from workers.errors import SettingsError
from workers.storage.memory import MemoryStore
from workers.training.batches import TRIES, BatchMaker
from workers.training.examples import read_example

PHOTO = {photo.name: photo for photo in load_photos()}


@pytest.fixture(scope="module")
def store():
    return memory_table()


@pytest.fixture(scope="module")
def maker(store):
    return tiny_maker(store)


def talks_of(maker, rows):
    return [maker.encode(read_example(row)) for row in rows]


def losses_of(batch):
    return training_losses(tiny().model, batch, LossWeights(refinement=2.0))


def test_a_batch_of_real_photos_can_be_learned(maker):
    batch = maker.make(talks_of(maker, photo_rows(1)), range(8)).batch
    losses = losses_of(batch)
    assert all(torch.isfinite(each) for each in (losses.ce, losses.bce, losses.dice))
    losses.total.backward()
    tiny().model.zero_grad()
    assert losses.bce > 0


def test_tensors_are_what_the_model_reads_and_what_people_drew(maker):
    rows = photo_rows(1)
    batch = maker.make(talks_of(maker, rows), [4, 1]).batch
    for at, number in enumerate((4, 1)):
        photo = PHOTO[rows[number].image_uri.rpartition("/")[2]]
        prepared = prepare_image(photo.rgb, 56)
        assert torch.equal(batch.pixels[at], prepared.pixels)
        assert batch.resized[at] == prepared.resized
        assert np.array_equal(batch.masks[at].numpy(), np.stack(photo.masks))
        talk = talks_of(maker, rows)[number]
        length = len(talk.ids.ids)
        assert batch.ids[at, :length].tolist() == list(talk.ids.ids)
        assert batch.labels[at, :length].tolist() == list(talk.ids.labels)
        assert batch.text_valid[at].sum() == length
        assert set(batch.labels[at, length:].tolist()) <= {IGNORE_INDEX}
    assert batch.image_of.tolist() == [0, 1]
    assert batch.seg_ids == tiny().tokenizer.seg_ids
    assert batch.ignored == ()


def test_questions_about_one_photo_share_it_and_stand_in_its_order(maker):
    """Three about photo 0 and two about photo 2, with 1 and 14 masks."""
    rows = [photo_rows()[number] for number in (0, 10, 1, 11, 2)]
    talks = talks_of(maker, rows)
    batch = maker.make(talks, range(5)).batch
    assert batch.pixels.shape[0] == len(batch.resized) == len(batch.masks) == 2
    assert batch.image_of.tolist() == [0, 0, 0, 1, 1]
    wanted = [talks[number].ids.ids for number in (0, 2, 4, 1, 3)]
    read = [
        ids[: valid.sum()].tolist() for ids, valid in zip(batch.ids, batch.text_valid, strict=True)
    ]
    assert read == list(map(list, wanted))
    assert count_targets(batch.ids, batch.seg_ids) == [1, 1, 1, 14, 14]
    assert [len(masks) for masks in batch.masks] == [3, 28]
    drawn = np.stack(load_photos()[2].masks)
    assert np.array_equal(batch.masks[1].numpy(), np.concatenate([drawn, drawn]))
    assert torch.isfinite(losses_of(batch).total)


def test_masks_in_another_order_are_another_lesson(maker):
    batch = maker.make(talks_of(maker, photo_rows(1)), [5]).batch
    turned = replace(batch, masks=(batch.masks[0].flip(0),))
    assert losses_of(batch).bce.item() != losses_of(turned).bce.item()
    assert losses_of(batch).ce.item() == losses_of(turned).ce.item()


def test_an_answer_without_masks_is_learned_beside_others(maker):
    nothing = replace(photo_rows()[0], answer_text="Nothing.", targets=(), status="empty")
    batch = maker.make(talks_of(maker, [nothing, photo_rows()[5]]), range(2)).batch
    assert batch.masks[0].shape == (0, 640, 480)
    assert torch.isfinite(losses_of(batch).total)
    alone = maker.make(talks_of(maker, [nothing]), [0]).batch
    assert losses_of(alone).bce.item() == 0


def test_pixels_of_an_ignored_region_are_not_learned(maker):
    """Whatever the truth says there, the losses are the same; elsewhere they are not."""
    row = photo_rows()[5]  # three masks
    flagged = replace(row.targets[0], flags=("ignore_region",))
    text = "it is [SEG]." * 2
    other = photo_rows()[0]
    rows = [replace(row, targets=(flagged, *row.targets[1:]), answer_text=text), other]
    batch = maker.make(talks_of(maker, rows), range(2)).batch
    region = torch.from_numpy(load_photos()[1].masks[0])
    assert torch.equal(batch.ignored[0], region.expand(2, -1, -1))
    assert batch.ignored[1].shape == (1, 640, 480)
    assert not batch.ignored[1].any()
    everywhere = replace(batch, masks=(batch.masks[0] | region, batch.masks[1]))
    assert losses_of(batch).total.item() == losses_of(everywhere).total.item()
    counted = replace(everywhere, ignored=())
    assert losses_of(batch).total.item() != losses_of(counted).total.item()


def test_two_questions_about_a_photo_ignore_each_its_own(maker):
    row = photo_rows()[5]
    flagged = replace(row.targets[0], flags=("ignore_region",))
    text = "it is [SEG]." * 2
    rows = [replace(row, targets=(flagged, *row.targets[1:]), answer_text=text), photo_rows()[6]]
    batch = maker.make(talks_of(maker, rows), range(2)).batch
    assert [bool(each.any()) for each in batch.ignored[0]] == [True, True, False, False, False]


def test_the_next_of_the_pool_stands_in_for_one_whose_picture_is_gone(store):
    worse = MemoryStore()
    rows = photo_rows(1)
    names = [row.image_uri.rpartition("/")[2] for row in rows]
    put_photos(worse, leave_out=(names[2], names[3], names[7]))
    maker = tiny_maker(worse)
    talks = talks_of(maker, rows)
    made = maker.make(talks, [1, 2])
    assert made.skipped == {"image_missing": 1}
    assert_same(made.batch, tiny_maker(store).make(talks, [1, 4]).batch)
    made = maker.make(talks, [7, 3])  # behind the last comes the first
    assert made.skipped == {"image_missing": 2}
    assert_same(made.batch, tiny_maker(store).make(talks, [0, 4]).batch)


def test_of_a_photo_that_lies_in_two_places_the_one_that_is_there_is_taken(store):
    gone = replace(photo_rows()[0], image_uri=f"{PHOTOS}/gone.jpg")
    there = photo_rows()[1]
    maker = tiny_maker(store)
    made = maker.make(talks_of(maker, [gone, there]), range(2))
    assert made.skipped == {"image_missing": 1}
    assert made.batch.image_of.tolist() == [0, 0]


def test_a_folder_that_was_moved_ends_the_training():
    maker = tiny_maker(MemoryStore())
    talks = talks_of(maker, [photo_rows()[0]] * 3 * TRIES)
    with pytest.raises(SettingsError, match=rf"{TRIES} pictures in a row .*000000122745.jpg' for"):
        maker.make(talks, [5])


def test_a_maker_of_a_model_has_its_sizes(store):
    config = tiny().model.config
    maker = BatchMaker.for_model(config, tiny().tokenizer, store)
    talks = talks_of(maker, photo_rows(1))
    assert_same(maker.make(talks, [0]).batch, tiny_maker(store).make(talks, [0]).batch)


def assert_same(batch, other):
    assert batch.resized == other.resized
    for name in ("pixels", "ids", "labels", "text_valid", "image_of"):
        assert torch.equal(getattr(batch, name), getattr(other, name)), name
    for name in ("masks", "ignored"):
        pairs = zip(getattr(batch, name), getattr(other, name), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs), name
