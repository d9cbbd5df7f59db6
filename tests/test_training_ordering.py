from dataclasses import replace

import numpy as np
import pytest
import torch

from pixellm.answers import SEG_MARK
from tests.training_tables import memory_table, photo_rows, tiny
from workers.imports.wording import compose_marks, compose_unnamed
from workers.training.batches import BatchLimits, BatchMaker
from workers.training.examples import COLUMNS, read_example
from workers.training.ordering import are_alike, from_left
from workers.training.views import View, Views


def test_marks_of_one_list_and_one_name_are_alike():
    for count, seed in ((2, "a"), (3, "b"), (7, "c"), (2, "d")):
        names = [(None, "dog")] * count
        assert are_alike(compose_unnamed(count, seed), names)
        assert are_alike(compose_marks(count), names)
    assert not are_alike(compose_unnamed(1, "a"), [(None, "dog")])
    assert not are_alike(compose_unnamed(0, "a"), [])


def test_names_tell_masks_apart_wherever_they_stand():
    named = f"The dog and the cat are {SEG_MARK} and {SEG_MARK}."
    assert not are_alike(named, [("dog", None), ("cat", None)])
    between = f"The dog {SEG_MARK} by the door and the dog {SEG_MARK} that sleeps."
    assert not are_alike(between, [("the dog", None), ("the dog", None)])


def test_rows_of_a_category_are_alike_and_rows_with_names_are_not():
    row = next(row for row in photo_rows(1) if row.n_targets == 3)
    listed = replace(row, answer_text=f"They are {compose_marks(3)}")
    one = [replace(each, phrase=None, category="cow") for each in row.targets]
    assert read_example(replace(listed, targets=one)).alike
    other = [*one[:2], replace(one[2], category="dog")]
    assert not read_example(replace(listed, targets=other)).alike
    assert {"targets.phrase", "targets.category"} <= set(COLUMNS)


def test_masks_stand_from_left_to_right_by_their_middles():
    masks = torch.zeros(3, 4, 10, dtype=torch.bool)
    masks[0, :, 7:] = True
    masks[1, 0, :9] = True  # wide, its middle at 4
    masks[2, 2, 2:4] = True
    assert torch.equal(from_left(masks), masks[[2, 1, 0]])


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_order_is_that_of_the_picture_as_it_is_seen(mirrored, monkeypatch):
    monkeypatch.setattr(Views, "draw", lambda *_: View(mirrored=mirrored))
    row = next(row for row in photo_rows(1) if row.n_targets == 3)
    fixed = replace(read_example(row), alike=False)
    free = replace(fixed, alike=True, item_id="free")
    sorted_, labelled = (
        _masks_of(order, [fixed, free]) for order in ("left-to-right", "as-labelled")
    )
    assert torch.equal(labelled[:3], labelled[3:])
    assert torch.equal(sorted_[:3], labelled[:3])
    seen = sorted_[3:].numpy()
    middles = [np.nonzero(mask)[1].mean() for mask in seen]
    assert middles == sorted(middles)
    assert {mask.tobytes() for mask in seen} == {m.tobytes() for m in labelled[3:].numpy()}
    # this row has them from right to left
    assert torch.equal(sorted_[3:], labelled[3:] if mirrored else labelled[3:].flip(0))


def _masks_of(order, examples):
    limits = BatchLimits(400)
    maker = BatchMaker(tiny().tokenizer, 56, "", memory_table(), limits, Views(), order)
    return maker.make([maker.encode(each) for each in examples], range(2)).batch.masks[0]
