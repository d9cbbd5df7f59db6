import shutil

import pytest

from tests.watching.labelling import broken, never, snapshot
from workers.errors import AccessDenied, StorageUnavailable
from workers.progress import Progress
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.stores import Anywhere
from workers.watching.leases import Leases
from workers.watching.status import DropStatus, State
from workers.watching.watcher import Watcher


def test_the_labels_of_a_drop_that_is_deleted_are_kept(place):
    folder = place.drop("friday", 0)
    place.watch_once()
    (folder / "0.jpg").unlink()
    place.watch_once()
    assert place.status("friday")["state"] == "gone"
    assert place.status("friday")["changed"] == {"deleted": ["0.jpg"]}
    assert place.images("friday") == ["0.jpg"]
    before = snapshot(place.output)
    place.watch_once()
    assert snapshot(place.output) == before  # told once
    place.drop("friday", 0)
    place.watch_once()
    assert place.status("friday")["state"] == "done"


def test_of_two_watchers_one_tells_that_a_drop_is_gone(place, clock):
    folder = place.drop("friday", 0)
    place.watch_once()
    (folder / "0.jpg").unlink()
    watcher, other = place.watcher(clock=clock), place.watcher(clock=clock)
    seen = watcher._cursor.marks()
    other.backlog.look()
    assert "friday" in seen  # as in a sweep that began before the other one told of it
    watcher.backlog.look_at("friday")
    assert place.status("friday")["changed"] == {"deleted": ["0.jpg"]}
    assert len(list((place.output / "_days").rglob("*.json"))) == 2
    assert Leases(Anywhere(), str(place.output), 60.0).acquire("friday") is not None


def test_of_a_gone_drop_that_another_watcher_told_of_nothing_is_told_again(place):
    folder = place.drop("friday", 0)
    watcher = place.watch_once()
    (folder / "0.jpg").unlink()
    place.watch_once()
    told = entries(place)
    watcher.backlog._gone.tell(["friday"])  # by a sweep that read the marks before that
    assert entries(place) == told


def test_a_drop_that_is_back_is_not_told_of_as_gone(place):
    place.drop("friday", 0)
    watcher = place.watch_once()
    watcher.backlog._gone.tell(["friday"])  # by a sweep that listed it before it came back
    assert place.status("friday")["state"] == "done"
    assert place.watch_once(label=never).unfinished == []


def test_a_drop_that_was_refused_and_is_gone_has_no_labels_that_are_kept(place):
    (place.drop("mark only") / "_READY").touch()
    (place.drop("empty") / "x.docx").touch()
    place.drop("friday", 0)
    place.drop("monday", 1)
    place.watch_once()
    for name in ("mark only", "empty", "friday"):
        shutil.rmtree(place.input / name)
    place.watch_once()
    said = {name: place.status(name)["message"] for name in ("mark only", "empty", "friday")}
    assert said == {
        "mark only": "all of it was deleted; none of it was labelled",
        "empty": "its only file was deleted; none of it was labelled",
        "friday": "its only file was deleted; the labels are kept",
    }


def test_what_is_told_of_a_drop_that_is_gone_keeps_the_numbers_of_its_labels(place):
    folder = place.drop("friday", 0)
    place.watch_once()
    before = place.status("friday")
    (folder / "0.jpg").unlink()
    place.watch_once()
    after = place.status("friday")
    assert after["state"] == "gone"
    assert [after[name] for name in ("rows", "counts", "masks", "run_id")] == [
        before[name] for name in ("rows", "counts", "masks", "run_id")
    ]
    (page,) = (place.output / "_days").glob("*.md")
    assert "1 drop, 1 answer," in page.read_text()


def entries(place) -> int:
    return len(list((place.output / "_days").rglob("*.json")))


def test_a_folder_that_is_not_there_is_waited_for_and_nothing_is_noted_as_deleted(
    place, monkeypatch
):
    monkeypatch.setattr("workers.watching.patience.FIRST_WAIT", 0.01)
    place.drop("friday", 0)
    place.watch_once()
    place.input.rename(place.input.with_name("away"))
    with pytest.raises(StorageUnavailable, match=r"in' can't be looked into .*is its disk mounted"):
        place.watch_once(label=never)
    assert place.told.getvalue().count("tried again in") == 2
    place.input.with_name("away").rename(place.input)
    place.watch_once(label=never)
    assert place.status("friday")["state"] == "done"
    assert entries(place) == 1


def test_a_folder_that_never_was_there_is_told(place, monkeypatch):
    monkeypatch.setattr("workers.watching.patience.FIRST_WAIT", 0.01)
    place.input.rmdir()
    with pytest.raises(StorageUnavailable, match="is --input right"):
        place.watch_once(label=never)


def test_a_place_where_no_disk_is_mounted_is_warned_of_once_and_nothing_is_noted_as_deleted(place):
    place.drop("friday", 0)
    place.drop("monday", 1)
    place.watch_once()
    mounted = place.input.rename(place.input.with_name("mounted"))
    place.input.mkdir()
    watcher = place.watcher()
    for _ in range(3):
        watcher.backlog.sweep()
    watcher.backlog.look_at("friday")
    told = place.told.getvalue()
    assert told.count("in' is empty, and 2 drops of it are known: is its disk mounted?") == 1
    assert "holds nothing yet" not in told
    assert {place.status(name)["state"] for name in ("friday", "monday")} == {"done"}
    assert entries(place) == 2
    place.input.rmdir()
    mounted.rename(place.input)
    place.watch_once(label=never)


def test_an_input_that_was_emptied_is_believed_once_anything_lies_there(place):
    (place.drop("friday", 0) / "0.jpg").unlink()
    place.drop("friday", 0)
    place.watch_once()
    shutil.rmtree(place.input / "friday")
    place.watch_once()
    assert place.status("friday")["state"] == "done"
    (place.input / "monday").mkdir()
    place.watch_once()
    assert place.status("friday")["state"] == "gone"


def test_a_bucket_that_says_it_is_empty_is_believed(place):
    store = MemoryStore()
    settings = place.settings("--input", "mem://b/in", "--output", "mem://b/out")
    watcher = Watcher(store, settings, Progress(place.told, name="watch"), place.stop)
    watcher._cursor.put("friday", "d", [("1.jpg", "e1")])
    watcher.backlog.look()
    status = DropStatus.read(store, "mem://b/out/friday")
    assert status.state is State.GONE


@pytest.mark.parametrize("again", [False, True], ids=["same watcher", "another watcher"])
def test_a_drop_that_failed_and_was_then_deleted_is_not_tried_again_and_says_so(
    place, clock, again
):
    folder = place.drop("friday", 0)
    place.drop("monday", 1)
    watcher = place.watcher(clock=clock, label=broken)
    watcher.backlog.look()
    watcher.label()
    assert "tried again" in place.status("friday")["message"]
    shutil.rmtree(folder)
    if again:
        watcher = place.watcher(clock=clock)
    watcher.backlog.sweep()
    status = place.status("friday")
    assert status["state"] == "gone"
    assert status["message"] == (
        "all of it was deleted before it was labelled; what is labelled is kept"
    )
    assert "friday" not in watcher.unfinished
    told = entries(place)
    watcher.backlog.sweep()
    assert entries(place) == told  # once


def test_a_status_that_can_not_be_read_keeps_no_watcher_from_telling(place, monkeypatch):
    folder = place.drop("friday", 0)
    place.drop("monday", 1)
    place.watch_once()
    shutil.rmtree(folder)
    get = LocalStore.get

    def denied(store, uri, *arguments, **more):
        if uri.endswith("friday/_status.json"):
            raise AccessDenied("no such right")
        return get(store, uri, *arguments, **more)

    monkeypatch.setattr(LocalStore, "get", denied)
    place.watch_once(label=never)
    monkeypatch.setattr(LocalStore, "get", get)
    assert place.status("friday")["state"] == "gone"


def test_a_status_that_is_away_for_a_moment_is_waited_for(place, monkeypatch):
    monkeypatch.setattr("workers.watching.patience.FIRST_WAIT", 0.01)
    folder = place.drop("friday", 0)
    place.watch_once()
    rows = place.status("friday")["rows"]
    shutil.rmtree(folder)
    (place.input / "monday").mkdir()
    get = LocalStore.get

    def away_once(store, uri, *arguments, **more):
        if uri.endswith("friday/_status.json"):
            monkeypatch.setattr(LocalStore, "get", get)
            raise StorageUnavailable("the disk sleeps")
        return get(store, uri, *arguments, **more)

    monkeypatch.setattr(LocalStore, "get", away_once)
    place.watch_once(label=never)
    assert "the disk sleeps; tried again" in place.told.getvalue()
    assert (place.status("friday")["state"], place.status("friday")["rows"]) == ("gone", rows)
