from dataclasses import replace

import pytest

from workers.errors import SettingsError
from workers.exports.categories import (
    GivenIds,
    name_category,
    number_categories,
    read_category_map,
)
from workers.labels.targets import blank_target


def target(phrase=None, category=None):
    return replace(blank_target(), phrase=phrase, category=category)


def test_a_category_is_the_class_that_was_asked_for_or_the_phrase_or_the_instruction():
    assert name_category(target("the red mug", "Mug"), "x", "phrase") == "mug"
    assert name_category(target("The red mug."), "x", "phrase") == "red mug"
    assert name_category(target(None), "the mugs", "phrase") == "mugs"
    assert name_category(target(None), "", "phrase") == "object"
    assert name_category(target("the red mug"), "x", "object") == "object"


def test_a_file_sorts_phrases_and_the_rest_has_no_category():
    rule = read_category_map(b'{"a red mug": "mug", "Blue mug": "mug"}', "map.json")
    assert name_category(target("the red mug"), "x", rule) == "mug"
    assert name_category(target("the blue  MUG"), "x", rule) == "mug"
    assert name_category(target("a plate"), "x", rule) is None
    assert name_category(target("a plate", "red mug"), "x", rule) == "mug"


def test_a_star_takes_the_rest():
    rule = read_category_map(b"mug:\n'*': other\n", "map.yaml")
    assert name_category(target("mug"), "x", rule) == "mug"
    assert name_category(target("plate"), "x", rule) == "other"


def test_ids_are_kept_and_the_others_fill_the_gaps():
    rule = read_category_map(
        b'{"mug": {"id": 2, "name": "cup"}, "plate": 1, "fork": "cutlery", "knife": "blade"}',
        "m.json",
    )
    assert number_categories(["cup"], rule) == {"plate": 1, "cup": 2, "blade": 3, "cutlery": 4}


def test_an_id_may_be_0():
    rule = read_category_map(b'{"boat": {"id": 0, "name": "vessel"}, "man": "human"}', "m.json")
    assert number_categories(["vessel"], rule) == {"vessel": 0, "human": 1}
    assert read_category_map(b'{"boat": 0}', "m.json").ids == {"boat": 0}


def test_ids_of_an_imported_file_are_kept_where_they_are_of_one_category():
    given = GivenIds()
    for name, number in [
        ("Car", 3),
        ("bus", 9),
        ("van", 9),
        ("dog", 4),
        ("dog", 5),
        ("sky", 0),
        ("?", -1),
    ]:
        given.add(name, number)
    assert given.kept() == {"Car": 3, "sky": 0}
    names = {"Car", "bus", "dog", "tree"}
    assert number_categories(names, "phrase", given.kept()) == {
        "sky": 0,
        "bus": 1,
        "dog": 2,
        "Car": 3,
        "tree": 4,
    }
    assert number_categories({"object"}, "object", given.kept()) == {"object": 1}


def test_what_a_model_named_is_spelt_as_an_imported_file_writes_it():
    given = GivenIds()
    for number, name in enumerate(("Traffic Light", "Van", "the van"), start=1):
        given.add(name, number)
    names = {"Van", "van", "traffic light", "mug"}
    assert given.spell(names) == {"traffic light": "Traffic Light"}, "which van is not clear"


def test_a_mask_of_an_imported_file_has_its_category_as_it_is_written_there():
    imported = replace(target("x", "Traffic Light"), category_id=9)
    assert name_category(imported, "x", "phrase") == "Traffic Light"
    assert name_category(imported, "x", "object") == "object"
    rule = read_category_map(b'{"traffic light": "light"}', "m.json")
    assert name_category(imported, "x", rule) == "light"


def test_without_a_file_categories_are_numbered_by_name():
    assert number_categories({"b", "a", "c"}, "phrase") == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{oops",
        b'{"a": -1}',
        b'{"a": 1.5}',
        b'{"a": true}',
        b'{"a": ""}',
        b'{"a": {"id": "1"}}',
        b'{"a": 1, "b": 1}',
        b'{"a": {"id": 1, "name": "x"}, "b": {"id": 2, "name": "x"}}',
    ],
)
def test_a_file_that_is_no_map_is_refused(data):
    with pytest.raises(SettingsError, match=r"map\.json"):
        read_category_map(data, "map.json")


def test_a_key_that_yaml_takes_for_a_number_is_explained():
    with pytest.raises(SettingsError, match="quotes"):
        read_category_map(b"7: mug\n", "map.yaml")
