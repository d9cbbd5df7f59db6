import json
from dataclasses import replace

import pytest

from workers.labels.origins import Origin, RefOrigin
from workers.labels.rows import blank_row

FULL = Origin(
    place=3,
    image="a/b.jpg",
    image_key="coco_url",
    question="what  is  there?",
    answer="[SEG] {seg}",
    composed=True,
    names=("a", None),
    refs=(RefOrigin(1, 2, "the cat", "val"), RefOrigin(3, 4, "the dog")),
)


def test_a_row_of_a_model_has_none_whatever_its_input_says():
    row = replace(blank_row(), meta_json=FULL.to_json(), origin="human")
    assert Origin.of(row) == FULL
    assert Origin.of(replace(row, origin="model")) == Origin()


@pytest.mark.parametrize("origin", [Origin(), FULL, Origin(names=("x",)), Origin(question="")])
def test_an_origin_comes_back_as_it_was(origin):
    assert Origin.from_json(origin.to_json()) == origin


def test_what_says_nothing_is_not_written():
    assert json.loads(Origin(image="a.jpg").to_json()) == {"source": {"image": "a.jpg"}}


@pytest.mark.parametrize(
    "meta",
    [
        None,
        "{}",
        '{"source": "flickr"}',
        '{"source": {"page": 7}}',
        '{"source": {"refs": 7}}',
        '{"source": {"refs": [{"a": 1}]}}',
        '{"place": 4}',
    ],
)
def test_keys_of_a_users_own_are_no_origin(meta):
    assert Origin.from_json(meta) == Origin()
