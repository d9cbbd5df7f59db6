import json

from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.watching.days import Days
from workers.watching.status import DropStatus, State
from workers.watching.telling import Teller


def test_the_page_of_the_day_tells_of_every_drop(place):
    (place.drop("friday | 1", 0) / "bad.jpg").write_bytes(b"x")
    place.drop("empty")
    (place.input / "empty" / "x.docx").touch()
    place.watch_once()
    (page,) = (place.output / "_days").glob("*.md")
    text = page.read_text()
    assert "2 drops, 1 answer," in text
    assert "friday \\| 1" in text
    assert "refused" in text
    assert "nothing to label" in text
    assert "image_unknown_format" in text


def test_what_is_wrong_with_a_drop_is_said_with_its_time_line_by_line(place):
    folder = place.drop("fri day", 0)
    (folder / "_pixellm.yaml").write_text("model: x\noutput: y\n")
    place.watch_once()
    (page,) = (place.output / "_days").glob("*.md")
    text = page.read_text()
    time = place.status("fri day")["updated_at"][11:19]
    assert f"\n* {time} fri day, [_status.json](../fri%20day/_status.json):\n    * " in text
    assert text.count("a drop can't set") == text.count("\n    * ") == 2
    assert "| --- | --- | --- | ---: |" in text


def test_what_is_said_once_a_day_is_said_once_by_all_watchers():
    store = MemoryStore()
    for _ in range(2):
        teller = Teller(store, Days(store, "mem://b/out"), lambda *_, **__: None)
        for message in ("message 1 is left", "message 2 is left"):
            teller.tell_by_page("_queue", message, source="")
    (page,) = (each.uri for each in store.list("mem://b/out") if each.uri.endswith(".md"))
    text = store.get(page).decode()
    assert [text.count(f"message {n} is left") for n in (1, 2)] == [1, 1]


def test_the_page_has_what_another_watcher_noted_while_it_was_made():
    class Busy(MemoryStore):
        """Takes long to write a page: others are noted meanwhile, and their page is written."""

        def put(self, uri, data):
            if uri.endswith(".md") and others:
                Days(self, "mem://b/out").note(others.pop())
            return super().put(uri, data)

    store, others = Busy(), [done("monday"), done("sunday")]
    Days(store, "mem://b/out").note(done("friday"))
    (page,) = (each.uri for each in store.list("mem://b/out") if each.uri.endswith(".md"))
    text = store.get(page).decode()
    assert [f"| {name} | done |" in text for name in ("friday", "monday", "sunday")] == [True] * 3


def done(drop):
    return DropStatus.begin(drop, State.DONE, "said", source="", labels="")


def test_a_day_with_many_drops_has_each_entry_read_once(place, monkeypatch):
    for name in "abcdef":
        place.drop(name, 0)
    read, get = [], LocalStore.get

    def counting(store, uri, *arguments, **more):
        read.append(uri)
        return get(store, uri, *arguments, **more)

    monkeypatch.setattr(LocalStore, "get", counting)
    place.watch_once()
    entries = [uri for uri in read if "/_days/" in uri]
    assert len(entries) == len(set(entries)) == 6


def test_of_a_drop_that_is_labelled_twice_a_day_its_answers_count_once(place):
    place.drop("friday", 0)
    place.watch_once()
    place.drop("friday", 1)
    place.watch_once()
    (page,) = (place.output / "_days").glob("*.md")
    assert "1 drop, 2 answers" in page.read_text()


def test_an_entry_of_another_version_keeps_nobody_from_making_the_page():
    store = MemoryStore()
    days = Days(store, "mem://b/out")
    status = DropStatus.begin("friday", State.DONE, "said", source="", labels="")
    days.note(status)
    day = status.began_at[:10]
    other = {"state": "done", "not_read": [], "problems": [], "changed": []}
    for number, entry in enumerate((other, [], {"state": "asleep"})):
        store.put(f"mem://b/out/_days/{day}/0-{number}.json", json.dumps(entry).encode())
    days.note(status)
    assert b"1 drop," in store.get(f"mem://b/out/_days/{day}.md")
