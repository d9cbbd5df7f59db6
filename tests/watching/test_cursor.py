import gzip

import pytest

from workers.errors import AccessDenied, ConditionUnsupported, SettingsError
from workers.labels.commits import now
from workers.storage.memory import MemoryStore
from workers.watching.cursor import MOST_KEPT, Changes, Cursor

OUT = "mem://b/out"


@pytest.fixture
def store():
    return MemoryStore()


def test_a_drop_is_known_by_the_mark_it_was_labelled_with(store):
    cursor = Cursor(store, OUT)
    assert cursor.marks() == {}
    cursor.put("a", "one", [("1.jpg", "e1")])
    cursor.put("b", "two", [])
    assert Cursor(store, OUT).marks() == {"a": {"one"}, "b": {"two"}}
    assert Cursor(store, OUT).marks_of("a") == {"one"}
    assert Cursor(store, OUT).marks_of("none") == frozenset()


def test_what_was_in_it_can_be_read_by_any_watcher(store):
    content = {"deep/1 ü.jpg": "e1", "2.jpg": "e2"}
    Cursor(store, OUT).put("a", "one", content.items())
    assert Cursor(store, OUT).content("a") == content
    assert Cursor(store, OUT).content("none") == {}


def test_a_drop_that_is_labelled_again_has_one_mark(store):
    cursor = Cursor(store, OUT)
    cursor.put("a", "one", [("1.jpg", "e1")])
    assert cursor.content("a") == {"1.jpg": "e1"}
    cursor.put("a", "two", [("1.jpg", "e2")])
    assert cursor.marks_of("a") == {"two"}
    assert cursor.content("a") == {"1.jpg": "e2"}
    cursor.forget("a")
    assert cursor.marks_of("a") == frozenset()


def test_a_watcher_that_is_killed_between_two_writes_leaves_a_drop_that_is_not_up_to_date(store):
    cursor = Cursor(store, OUT)
    cursor.put("a", "one", [("1.jpg", "e1")])
    store.put(f"{OUT}/_watch/labelled/a/two.jsonl.gz", b"")
    assert cursor.marks()["a"] != {"one"}
    assert cursor.marks()["a"] != {"two"}
    cursor.put("a", "two", [("1.jpg", "e2")])
    assert cursor.marks()["a"] == {"two"}


def test_a_watcher_that_is_killed_while_it_notes_a_drop_keeps_what_was_noted(store, monkeypatch):
    cursor = Cursor(store, OUT)
    cursor.put("a", "one", [("1.jpg", "e1")])

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        cursor.put("a", "two", [("1.jpg", "e2")])
    assert Cursor(store, OUT).content("a") == {"1.jpg": "e1"}


def test_a_drop_is_begun_when_it_was_begun_first_until_it_has_a_mark(store):
    cursor = Cursor(store, OUT)
    before = now()
    assert cursor.begin("a") == ""
    first = cursor.begin("a")
    assert before <= first <= now()
    assert Cursor(store, OUT).begin("a") == first
    cursor.put("a", "one", [])
    assert cursor.begin("a") == ""


@pytest.mark.parametrize("text", [b"", b"\xff", b"yesterday", b"2026-11-25"])
def test_a_drop_that_another_version_has_begun_is_begun_from_now_on(store, text):
    store.put(f"{OUT}/_watch/begun/a", text)
    before = now()
    first = Cursor(store, OUT).begin("a")
    assert before <= first <= now()
    assert Cursor(store, OUT).begin("a") == first


def test_a_prefix_is_noted_with_the_first_drop(store):
    cursor = Cursor(store, OUT)
    cursor.claim("mem://b/typo")
    Cursor(store, OUT).claim("mem://b/in")
    cursor.begin("a")
    with pytest.raises(SettingsError, match="typo"):
        Cursor(store, OUT).claim("mem://b/in")


@pytest.mark.parametrize("condition", ["heeded", "refused", "overlooked"])
def test_of_watchers_of_two_prefixes_that_start_together_the_first_holds_the_output(
    store, monkeypatch, condition
):
    one, two, third = (Cursor(store, OUT) for _ in range(3))
    for cursor, prefix in ((one, "mem://b/one"), (two, "mem://b/two"), (third, "mem://b/one")):
        cursor.claim(prefix)
    if condition == "refused":
        monkeypatch.setattr(store, "put_if_absent", unconditional)
    if condition == "overlooked":
        monkeypatch.setattr(store, "put_if_absent", lambda uri, data: store.put(uri, data) or True)
    one.begin("friday")
    for _ in range(2):
        with pytest.raises(SettingsError, match="mem://b/one"):
            two.begin("monday")
    third.begin("sunday")
    assert third.begun() == {"friday", "sunday"}


def unconditional(*_):
    raise ConditionUnsupported("none")


def test_changes_tell_what_is_new_replaced_and_deleted():
    before, after = {"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"}
    assert Changes.between(before, after) == Changes(("d",), ("b",), ("a",))
    assert Changes.between(after, after) == Changes()


def test_of_many_drops_only_some_contents_are_kept_in_memory(store):
    cursor = Cursor(store, OUT)
    for number in range(2 * MOST_KEPT):
        cursor.put(f"{number}", "one", [("1.jpg", f"e{number}")])
        assert cursor.content(f"{number}") == {"1.jpg": f"e{number}"}
    assert len(cursor._contents) == MOST_KEPT
    assert cursor.content("0") == {"1.jpg": "e0"}


PACKED = gzip.compress(b"nonsense", mtime=0)


@pytest.mark.parametrize("data", [b"no gzip", PACKED, PACKED[:-5], PACKED[:-12] + b"x" * 12])
def test_a_list_that_is_damaged_is_as_good_as_none(store, data):
    store.put(f"{OUT}/_watch/labelled/a/one.jsonl.gz", data)
    assert Cursor(store, OUT).marks_of("a") == {"one"}
    assert Cursor(store, OUT).content("a") == {}


def test_a_list_that_may_not_be_read_is_as_good_as_none(store, monkeypatch):
    Cursor(store, OUT).put("a", "one", [("1.jpg", "e1")])

    def denied(*_):
        raise AccessDenied("another user wrote it")

    monkeypatch.setattr(store, "get", denied)
    assert Cursor(store, OUT).content("a") == {}


def test_a_drop_that_something_was_told_of_is_known_until_it_is_labelled_or_forgotten(store):
    cursor = Cursor(store, OUT)
    cursor.begin("a")
    assert (cursor.begun(), cursor.knows("a"), cursor.marks_of("a")) == ({"a"}, True, frozenset())
    cursor.put("a", "one", [])
    assert (cursor.begun(), cursor.knows("a")) == (frozenset(), True)
    cursor.begin("b")
    for name in ("a", "b"):
        cursor.forget(name)
        assert not cursor.knows(name)
    assert cursor.begun() == frozenset()
