"""Drops that change: between two waves, while one is planned, and while it is labelled."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from tests.here import label_runs_here
from tests.photos import load_photos
from tests.same import assert_same_rows
from tests.watching.labelling import by_image, half, never, undisturbed
from workers.runs import plan_run
from workers.stopping import Stop
from workers.storage.stores import Anywhere
from workers.watching.drops import list_drop


def test_what_is_added_replaced_and_deleted_makes_the_table_follow(place):
    folder = place.drop("friday", 0, 1, 2)
    place.watch_once()
    first = {row.image_uri: row.created_at for row in place.rows("friday")}
    (folder / "0.jpg").write_bytes(load_photos()[5].data)
    (folder / "1.jpg").unlink()
    (folder / "9.jpg").write_bytes(load_photos()[6].data)
    place.watch_once()
    status = place.status("friday")
    assert status["changes"] == {"new": 1, "replaced": 1, "deleted": 1}
    assert status["changed"] == {"new": ["9.jpg"], "replaced": ["0.jpg"], "deleted": ["1.jpg"]}
    assert (status["rows"], status["kept"]) == (3, 1)
    assert place.images("friday") == ["0.jpg", "2.jpg", "9.jpg"]
    second = {row.image_uri: row.created_at for row in place.rows("friday")}
    same = {uri for uri in first.keys() & second.keys() if first[uri] == second[uri]}
    assert same == {str(folder / "2.jpg")}  # the others were asked


def test_what_is_kept_is_what_was_labelled_before_the_change_however_often_it_was_begun(place):
    folder = place.drop("friday", *range(6))
    place.watch_once()
    (folder / "0b.jpg").write_bytes(load_photos()[6].data)  # all shards after it are others, too
    (folder / "5.jpg").write_bytes(load_photos()[7].data)
    place.watch_once(label=half)
    assert place.status("friday")["state"] == "unfinished"
    place.stop = Stop()
    place.watch_once()
    status = place.status("friday")
    assert (status["state"], status["rows"], status["kept"]) == ("done", 7, 5)


def label_one_more(place) -> tuple[int, int, int, int]:
    """Of a start that labels one image: parts that are left, rows, those of `counts`, kept ones."""
    place.stop = Stop()
    place.watch_once(label=half)
    status = place.status("friday")
    left, counts = sum(status["not_done"].values()), sum(status["counts"].values())
    return left, status["rows"], counts, status["kept"]


def test_what_is_told_of_a_drop_that_is_stopped_again_and_again_is_all_that_is_committed(place):
    place.drop("friday", 0, 1, 2)
    assert label_one_more(place) == (2, 1, 1, 0)
    assert label_one_more(place) == (1, 2, 2, 0)
    assert label_one_more(place) == (0, 3, 3, 0)
    place.drop("friday", 3, 4, 5)
    assert label_one_more(place) == (2, 4, 4, 3)
    assert label_one_more(place) == (1, 5, 5, 3)
    assert label_one_more(place) == (0, 6, 6, 3)


def test_rows_of_a_start_of_another_version_are_not_kept_ones_of_a_drop_that_was_never_labelled(
    place,
):
    place.drop("friday", 0, 1, 2)
    label_one_more(place)
    (place.output / "_watch" / "begun" / "friday").write_bytes(b"")
    assert label_one_more(place) == (1, 2, 2, 0)
    assert label_one_more(place) == (0, 3, 3, 0)


def test_what_is_wrong_with_a_drop_that_is_stopped_is_told_of_all_that_is_committed(place):
    place.drop("friday", 0, 1)
    (place.input / "friday" / "0.jpg").write_bytes(b"no image")
    place.watch_once()
    place.drop("friday", 2, 3, 4)
    (place.input / "friday" / "3.jpg").write_bytes(b"no image")
    for names in (["0.jpg"], ["0.jpg", "3.jpg"]):
        label_one_more(place)
        status = place.status("friday")
        assert status["state"] == "unfinished"
        assert status["reasons"] == {"image_unknown_format": len(names)}
        assert [each["image"].rpartition("/")[2] for each in status["problems"]] == names


def test_rows_of_a_watcher_that_was_killed_before_it_told_of_them_are_not_kept_ones(place):
    folder, all_in_one = place.drop("friday", *range(6)), ("--reading.records-per-shard", "100")
    place.watch_once(*all_in_one)
    (folder / "5.jpg").write_bytes(load_photos()[7].data)

    def killed(*given):
        list(label_runs_here(*given))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.watch_once(*all_in_one, label=killed)
    place.watch_once(*all_in_one)
    status = place.status("friday")
    assert (status["state"], status["rows"], status["kept"]) == ("done", 6, 5)


def test_a_drop_that_changes_while_it_is_labelled_ends_as_if_it_had_never_been_other(place):
    folder = place.drop("friday", 0, 1, 2)
    other, data = load_photos()[5].data, load_photos()[6].data

    def meanwhile(runs, progress, stop):
        (folder / "0.jpg").write_bytes(other)  # after the plan, before it is read
        (folder / "2.jpg").unlink()
        (folder / "7.jpg").write_bytes(data)
        return label_runs_here(runs, progress, stop)

    place.watch_once(label=meanwhile)
    place.watch_once()
    assert place.status("friday")["changes"] == {"new": 1, "replaced": 1, "deleted": 1}
    assert place.images("friday") == ["0.jpg", "1.jpg", "7.jpg"]
    assert_same_rows(by_image(place.rows("friday")), by_image(undisturbed(place, folder)))


# ---- lists ----


def list_in(folder: Path, *names: str) -> None:
    lines = (json.dumps({"image": name}) for name in names)
    (folder / "list.jsonl").write_text("\n".join(lines))


def test_an_image_that_a_list_names_is_labelled_again_when_it_is_replaced_or_comes_late(place):
    folder = place.drop("friday", 0, 1)
    list_in(folder, "0.jpg", "1.jpg", "2.jpg")
    place.watch_once()
    assert place.status("friday")["reasons"] == {"image_missing": 1}
    before = {row.image_uri: row for row in place.rows("friday")}
    (folder / "0.jpg").write_bytes(load_photos()[5].data)
    place.drop("friday", 2)
    place.watch_once()
    after = {row.image_uri: row for row in place.rows("friday")}
    replaced, same, late = (str(folder / f"{number}.jpg") for number in range(3))
    assert after[replaced].image_sha256 == sha256(load_photos()[5].data).hexdigest()
    assert after[same].created_at == before[same].created_at
    assert after[late].error_code is None
    assert place.status("friday")["kept"] == 1
    place.watch_once(label=never)


def test_images_beside_a_list_that_does_not_name_them_are_spoken_of(place):
    list_in(place.drop("friday", 0, 1), "0.jpg")
    place.watch_once()
    said = place.status("friday")["message"]
    assert "beside files that list records: labelled where those name them" in said


def test_a_list_whose_images_are_the_same_makes_no_new_table(place):
    folder = place.drop("friday", 0)
    list_in(folder, "0.jpg")
    place.watch_once()
    (folder / "notes.txt").write_text("hello")
    place.watch_once()
    assert place.status("friday")["changes"]["new"] == 1
    assert len(list((place.output / "friday" / "_runs").glob("*.json"))) == 1


# ---- drops that change while they are looked at ----


def test_a_drop_that_changes_between_sweep_and_plan_is_labelled_as_it_is_then(place, clock):
    folder = place.drop("friday", 0)
    watcher = place.watcher(clock=clock)
    watcher.backlog.look()
    (folder / "0.jpg").write_bytes(load_photos()[5].data)
    watcher.label()
    assert place.status("friday")["state"] == "done"
    check_that_the_labels_are_of(place, folder)
    place.watch_once(label=never)


def test_a_drop_that_changed_after_the_sweep_and_back_after_its_plan_is_labelled_again(
    place, clock
):
    folder, swapped = place.drop("friday", 0, 1), SwapsTwo()
    watcher = place.watcher(clock=clock)
    watcher.backlog.look()
    swapped(folder)
    watcher.label()
    swapped(folder)  # the very same files, with the same etags, lie there again
    place.watch_once()
    check_that_the_labels_are_of(place, folder)


def test_a_drop_that_changes_and_changes_back_before_its_plan_is_labelled_as_it_was(place, clock):
    folder, swapped = place.drop("friday", 0, 1), SwapsTwo()
    watcher = place.watcher(clock=clock)
    watcher.backlog.look()
    swapped(folder)
    swapped(folder)
    watcher.label()
    assert place.status("friday")["state"] == "done"
    check_that_the_labels_are_of(place, folder)
    place.watch_once(label=never)


@pytest.mark.parametrize("is_back", [False, True], ids=["changed", "changed back"])
def test_a_drop_that_changes_while_it_is_planned_is_looked_at_again(
    place, clock, monkeypatch, is_back
):
    folder, swapped = place.drop("friday", 0, 1), SwapsTwo()

    def planning(*arguments, **more):
        monkeypatch.setattr("workers.watching.planning.plan_run", plan_run)
        swapped(folder)
        return plan_run(*arguments, **more)

    monkeypatch.setattr("workers.watching.planning.plan_run", planning)
    watcher = place.watcher(clock=clock, label=never)
    watcher.backlog.look()
    watcher.label()
    assert "friday: it changed while it was planned; looked at again" in place.told.getvalue()
    assert not (place.output / "friday").exists()
    if is_back:
        swapped(folder)
    assert place.watch_once().unfinished == []
    check_that_the_labels_are_of(place, folder)


def test_a_drop_that_is_another_one_for_a_moment_is_not_noted_with_what_was_in_it_then(
    place, clock, monkeypatch
):
    folder, swapped = place.drop("friday", 0, 1), SwapsTwo()

    def listing(*arguments):
        monkeypatch.setattr("workers.watching.planning.list_drop", list_drop)
        swapped(folder)
        found = list_drop(*arguments)
        swapped(folder)
        return found

    monkeypatch.setattr("workers.watching.planning.list_drop", listing)
    watcher = place.watcher(clock=clock, label=never)
    watcher.backlog.look()
    watcher.label()
    assert "it changed while it was planned" in place.told.getvalue()
    place.watch_once()
    assert place.status("friday")["state"] == "done"


def test_a_drop_that_is_away_while_it_is_planned_is_not_refused_for_good(place, clock, monkeypatch):
    folder = place.drop("friday", 0)

    def planning(*arguments, **more):
        monkeypatch.setattr("workers.watching.planning.plan_run", plan_run)
        folder.rename(folder.with_name("_away"))
        return plan_run(*arguments, **more)

    monkeypatch.setattr("workers.watching.planning.plan_run", planning)
    watcher = place.watcher(clock=clock)
    watcher.backlog.look()
    watcher.label()
    folder.with_name("_away").rename(folder)
    place.watch_once()
    assert place.status("friday")["state"] == "done"


class SwapsTwo:
    """Gives two photos of a drop each other's names; all else about the files stays."""

    def __call__(self, folder: Path) -> None:
        one, other, aside = folder / "0.jpg", folder / "1.jpg", folder / ".aside"
        one.rename(aside)
        other.rename(one)
        aside.rename(other)


def check_that_the_labels_are_of(place, folder: Path) -> None:
    """Each row is about the bytes that lie there, with the etag that they have."""
    store = Anywhere()
    there = {
        str(path): (sha256(path.read_bytes()).hexdigest(), store.stat(str(path)).etag)
        for path in folder.glob("*.jpg")
    }
    rows = {row.image_uri: (row.image_sha256, row.image_etag) for row in place.rows("friday")}
    assert rows == there
