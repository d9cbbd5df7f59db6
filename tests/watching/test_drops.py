from itertools import pairwise

import pytest

from workers.storage.memory import MemoryStore
from workers.watching.drops import (
    LOOSE,
    counts,
    drop_of,
    find_drops,
    list_drop,
    look_at,
    why_unfit,
)

IN = "mem://b/in"


def store_of(*names: str) -> MemoryStore:
    store = MemoryStore()
    for name in names:
        store.put(f"{IN}/{name}", name.encode())
    return store


def drops(store, exclude=()):
    return {drop.name: drop for drop in find_drops(store, IN, exclude)}


def test_each_folder_is_a_drop_and_files_in_none_are_one_together():
    store = store_of("a/1.jpg", "a/deep/2.jpg", "a-b/1.jpg", "a.jpg", "z.jpg")
    found = drops(store)
    assert {name: drop.files for name, drop in found.items()} == {"a": 2, "a-b": 1, LOOSE: 2}
    assert (found["a"].input, found[LOOSE].input) == (f"{IN}/a", IN)
    assert found["a"].size == len("a/1.jpg") + len("a/deep/2.jpg")


def test_hidden_folders_and_the_output_are_no_drops():
    store = store_of("a/1.jpg", "_b/1.jpg", ".c/1.jpg", "out/d/1.jpg", "_e.jpg")
    assert drops(store, [f"{IN}/out"]).keys() == {"a"}


def test_one_drop_looks_the_same_by_itself_as_in_the_listing_of_all():
    store = store_of("a/1.jpg", "a/_READY", "a/_pixellm.yaml", "b/1.jpg", "c.jpg", "out/1.jpg")
    for name, drop in drops(store, [f"{IN}/out"]).items():
        assert look_at(store, IN, name, [f"{IN}/out"]) == drop
    assert look_at(store, IN, "none") is None
    assert look_at(store, IN, "out", [f"{IN}/out"]) is None


def change(store):
    yield lambda: store.put(f"{IN}/a/2.jpg", b"new")
    yield lambda: store.put(f"{IN}/a/1.jpg", b"replaced")
    yield lambda: store.put(f"{IN}/a/1.jpg", b"REPLACED")  # as long as before
    yield lambda: store.delete(f"{IN}/a/2.jpg")
    yield lambda: store.put(f"{IN}/a/_instructions.txt", b"the dog")
    yield lambda: store.put(f"{IN}/a/_pixellm.yaml", b"coco: true")
    yield lambda: store.put(f"{IN}/a/deep/_instructions.txt", b"the dog")


def test_every_change_makes_another_drop_of_it():
    store = store_of("a/1.jpg")
    seen = [drops(store)["a"].digest]
    for act in change(store):
        act()
        seen.append(drops(store)["a"].digest)
    assert all(before != after for before, after in pairwise(seen))
    assert seen[0] not in seen[1:]


def test_what_the_line_does_not_read_changes_nothing():
    store = store_of("a/1.jpg")
    before = drops(store)["a"].digest
    for name in ("_READY", ".DS_Store", "_notes/2.jpg", "_x.jpg"):
        store.put(f"{IN}/a/{name}", b"x")
    after = drops(store)["a"]
    assert (after.digest, after.files, after.is_marked) == (before, 1, True)


def test_only_a_mark_right_in_the_drop_says_that_it_is_complete():
    found = drops(store_of("a/1.jpg", "a/deep/_READY", "b/1.jpg", "b/_READY", "c/_READY"))
    assert {name: drop.is_marked for name, drop in found.items()} == {
        "a": False,
        "b": True,
        "c": True,
    }


def test_a_mark_alone_makes_a_drop_with_nothing_in_it():
    (drop,) = drops(store_of("a/_READY", "b/.hidden")).values()
    assert (drop.name, drop.files, drop.is_marked) == ("a", 0, True)


def test_what_is_in_a_drop_is_listed_with_its_etags_and_the_digest_is_of_the_same_listing():
    store = store_of("a/1.jpg", "a/_READY", "1.jpg")
    found = drops(store)
    content = {"1.jpg": store.stat(f"{IN}/a/1.jpg").etag}
    assert list_drop(store, IN, "a") == (found["a"], content)
    assert list_drop(store, IN, LOOSE)[1].keys() == {"1.jpg"}
    assert list_drop(store, IN, "none") == (None, {})


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a/b/1.jpg", ("a", "b/1.jpg")),
        ("1.jpg", (LOOSE, "1.jpg")),
        ("_x/1.jpg", None),
    ],
)
def test_an_object_is_found_in_its_drop(name, place):
    assert drop_of(f"{IN}/{name}", IN) == place
    assert drop_of("mem://b/other/1.jpg", IN) is None


def test_hidden_names_do_not_count_but_for_those_that_say_what_is_asked():
    assert counts("1.jpg")
    assert counts("deep/_instructions.yaml")
    assert counts("_pixellm.yaml")
    assert not counts("_other.yaml")
    assert not counts("_hidden/1.jpg")
    assert not counts("deep/.x/1.jpg")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "without a name"),
        ("caf\udce9", "not UTF-8"),
        ("\ud800", "not UTF-8"),
        ("x" * 201, "more than 200 bytes"),
        ("ü" * 101, "more than 200 bytes"),
        ("a\0b", "zero byte"),
    ],
)
def test_a_name_that_no_folder_of_labels_can_have_is_that_of_no_drop(name, why):
    assert why in why_unfit(name)
    assert drop_of(f"{IN}/{name}/1.jpg", IN) is None


def test_other_names_are_those_of_drops():
    for name in ("x" * 200, "ü" * 100, " ", "a\nb", "%00", "labels", "-rf", "a\\b"):
        assert why_unfit(name) == ""
        assert drop_of(f"{IN}/{name}/1.jpg", IN) == (name, "1.jpg")
