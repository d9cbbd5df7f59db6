import os
from pathlib import Path

import pytest

from tests.photos import load_photos
from tests.watching.labelling import broken, never
from workers.errors import SettingsError, StorageUnavailable
from workers.progress import Progress
from workers.storage.memory import MemoryStore
from workers.watching.drops import find_drops
from workers.watching.watcher import Watcher


def test_a_drop_that_may_still_grow_waits_and_one_that_is_marked_does_not(place, clock):
    place.drop("growing", 0)
    (place.drop("ready", 1) / "_READY").touch()
    watcher = place.watcher("--settle-seconds", "60", clock=clock)
    watcher.backlog.look()
    watcher.label()
    assert place.status("ready")["state"] == "done"
    assert not (place.output / "growing").exists()
    clock.pass_by(59)
    place.drop("growing", 2)
    clock.pass_by(1)
    watcher.backlog.look()
    watcher.label()
    assert not (place.output / "growing").exists()
    clock.pass_by(60)
    watcher.backlog.look()
    watcher.label()
    assert place.images("growing") == ["0.jpg", "2.jpg"]


def test_a_mark_that_comes_while_a_drop_settles_makes_it_complete_at_once(place, clock):
    folder = place.drop("friday", 0)
    watcher = place.watcher("--settle-seconds", "3600", "--sweep-seconds", "60", clock=clock)
    watcher.backlog.look()
    (folder / "_READY").touch()
    clock.pass_by(60)
    watcher.backlog.look()
    watcher.label()
    assert place.status("friday")["state"] == "done"


def test_once_what_is_settling_is_waited_for(place):
    place.drop("friday", 0)
    place.watch_once("--settle-seconds", "0.6")
    assert place.status("friday")["state"] == "done"


def test_a_refresh_looks_at_all_again_once(place):
    place.drop("friday", 0)
    place.watch_once()
    place.watch_once("--refresh")
    assert len(list((place.output / "_days").rglob("*.json"))) == 2
    assert place.status("friday")["kept"] == 1


def test_names_of_drops_may_be_anything_that_is_text(place):
    name = "photos of Zoë (2026) #1 %20 'x'"
    place.drop(name, 0)
    place.watch_once()
    assert place.status(name)["state"] == "done"
    place.watch_once(label=never)


def test_an_output_inside_the_input_is_no_drop(place):
    place.drop("friday", 0)
    inside = place.input / "labels"
    place.watch_once("--output", str(inside))
    place.watch_once("--output", str(inside), label=never)
    assert not (inside / "labels").exists()
    assert (inside / "friday" / "_status.json").exists()


def test_an_output_inside_the_input_is_no_drop_of_another_watcher_if_its_name_is_hidden(place):
    place.drop("friday", 0)
    place.watch_once("--output", str(place.input / "_labels"))
    assert place.watch_once().backlog.waiting == {}
    assert {each.name for each in place.output.iterdir()} == {"_days", "_watch", "friday"}


def test_a_watcher_that_finds_nothing_says_so_once(place):
    place.watch_once()
    assert "holds nothing yet" in place.told.getvalue()
    place.drop("friday", 0)
    place.watch_once()
    watcher = place.watcher()
    watcher.backlog.sweep()
    watcher.backlog.sweep()
    assert place.told.getvalue().count("nothing is new: 1 drop, all labelled") == 1


def test_drops_that_were_refused_are_not_counted_as_labelled(place):
    place.drop("friday", 0)
    (place.drop("empty") / "x.docx").touch()
    place.watch_once()
    place.watch_once(label=never)
    assert "nothing is new: 1 drop labelled, 1 refused: empty (why, says" in place.told.getvalue()
    assert "all labelled" not in place.told.getvalue()


def test_folders_that_are_passed_over_are_told_of_once(place):
    place.drop("friday", 0)
    for name in ("_under", ".hidden"):
        place.drop(name, 1, 2)
    watcher = place.watcher()
    watcher.backlog.sweep()
    watcher.backlog.sweep()
    for name in ("_under", ".hidden"):
        assert place.told.getvalue().count(f"{name}: passed over, as all folders") == 1
    assert not (place.output / "_days").exists()


def test_an_input_that_was_mistyped_claims_no_output(place, tmp_path):
    (tmp_path / "inn").mkdir()
    place.watch_once("--input", str(tmp_path / "inn"))
    with pytest.raises(StorageUnavailable):
        place.watcher("--input", str(tmp_path / "im")).backlog.look()
    place.drop("friday", 0)
    assert place.watch_once().unfinished == []
    assert place.status("friday")["state"] == "done"


def test_an_input_that_is_a_file_is_refused_at_once(place):
    photo = place.drop("friday", 0) / "0.jpg"
    with pytest.raises(SettingsError, match=r"--input .*0.jpg' is a file: a watcher needs the fol"):
        place.watch_once("--input", str(photo))


def test_a_drop_that_is_waited_for_is_told_of(place, clock):
    place.drop("friday", 0)
    place.watcher("--settle-seconds", "60", clock=clock).backlog.look()
    assert "friday: 1 file, complete in 60 s if nothing changes" in place.told.getvalue()


@pytest.mark.parametrize("name", [b"caf\xe9", b"x" * 250])
def test_a_folder_whose_name_no_drop_can_have_is_told_and_keeps_nobody_from_the_others(place, name):
    folder = Path(os.fsdecode(os.fsencode(place.input) + b"/" + name))
    folder.mkdir()
    (folder / "1.jpg").write_bytes(load_photos()[1].data)
    place.drop("monday", 0)
    assert place.watch_once().unfinished == []
    assert place.status("monday")["state"] == "done"
    assert "name" in place.told.getvalue()
    (page,) = (place.output / "_days").glob("*.md")
    assert f" {os.fsdecode(name)[:3]}" in page.read_text()
    assert {each.name for each in place.output.iterdir()} == {"_days", "_watch", "monday"}


def test_a_folder_without_a_name_is_not_taken_for_all_of_the_prefix(place):
    store, prefix = MemoryStore(), "mem://b/in"
    for name in ("/1.jpg", "a/1.jpg"):
        store.put(f"{prefix}/{name}", b"x")
    settings = place.settings("--input", prefix, "--output", "mem://b/out")
    watcher = Watcher(store, settings, Progress(place.told, name="watch"), place.stop)
    watcher.backlog.look()
    assert watcher.backlog.waiting.keys() == {"a"}
    assert "(no name): a folder without a name" in place.told.getvalue()


def test_a_refresh_asks_again_what_must_settle_first(place):
    place.drop("friday", 0)
    place.watch_once()
    place.watch_once("--refresh", "--settle-seconds", "0.6")
    assert len(list((place.output / "_days").rglob("*.json"))) == 2


def test_a_refresh_is_not_cut_short_by_the_next_sweep(place, clock):
    place.drop("friday", 0)
    place.watch_once()
    watcher = place.watcher("--once", "--refresh", clock=clock)
    watcher.backlog.look()
    clock.pass_by(10_000)
    watcher.backlog.look()
    watcher.label()
    assert place.status("friday")["kept"] == 1


def test_a_watcher_that_is_asked_to_end_while_it_lists_takes_nothing_for_deleted(
    place, clock, monkeypatch
):
    place.drop("friday", 0)
    place.drop("monday", 1)
    place.watch_once()
    find = find_drops

    def slowly(*arguments):
        for drop in find(*arguments):
            yield drop
            place.stop.ask("asked to end")

    monkeypatch.setattr("workers.watching.backlog.find_drops", slowly)
    place.watcher().watch()
    assert {place.status(name)["state"] for name in ("friday", "monday")} == {"done"}


def test_many_drops_that_are_due_cost_a_sweep_and_not_a_look_at_each(place, clock, monkeypatch):
    for name in "abc":
        place.drop(name, 0)
    watcher = place.watcher("--settle-seconds", "60", clock=clock, label=never)
    watcher.backlog.look()
    clock.pass_by(60)
    monkeypatch.setattr("workers.watching.backlog.look_at", never)
    watcher.backlog.look()
    assert all(each.is_complete for each in watcher.backlog.waiting.values())


def test_a_watcher_that_is_asked_to_end_looks_at_no_more_drops(place, clock, monkeypatch):
    for name in "abc":
        place.drop(name, 0)
    watcher = place.watcher("--settle-seconds", "60", clock=clock, label=never)
    watcher.backlog.look()
    watcher.backlog.sweep_costs = 10
    clock.pass_by(60)
    place.stop.ask("asked to end")
    monkeypatch.setattr("workers.watching.backlog.look_at", never)
    watcher.backlog.look()
    assert not any(each.is_complete for each in watcher.backlog.waiting.values())


def test_an_output_is_that_of_one_input(place, tmp_path):
    place.drop("friday", 0)
    place.watch_once()
    (tmp_path / "other").mkdir()
    with pytest.raises(
        SettingsError, match=r"--output .*is dropped under .*in', not under .*other"
    ):
        place.watch_once("--input", str(tmp_path / "other"))
    assert place.status("friday")["state"] == "done"
    (place.output / "_watch" / "input.json").write_text("nonsense")
    place.watch_once(label=never)


def test_a_drop_that_was_refused_is_looked_at_again_when_something_is_asked(place):
    place.drop("friday", 0)
    place.watch_once("--ask-nothing")
    assert place.status("friday")["state"] == "refused"
    assert "nothing is asked" in place.status("friday")["message"]
    place.watch_once("--ask-nothing", label=never)
    place.watch_once("--instruction", "the dog")
    assert place.status("friday")["state"] == "done"
    place.watch_once("--instruction", "the cat", label=never)  # what is labelled is


def test_a_drop_that_failed_and_was_changed_back_is_told_of_as_it_is(place):
    folder = place.drop("friday", 0)
    place.watch_once()
    added = folder / "1.jpg"
    added.write_bytes(load_photos()[1].data)
    place.watch_once(label=broken)
    assert place.status("friday")["state"] == "unfinished"
    added.unlink()
    place.watch_once()
    assert place.status("friday")["state"] == "done"
    assert place.images("friday") == ["0.jpg"]


def test_a_watcher_that_was_killed_before_its_last_write_leaves_nothing_behind_for_good(place):
    place.drop("friday", 0)
    place.watch_once()._cursor.begin("friday")  # as before the mark was put
    watcher = place.watch_once()
    assert watcher._cursor.begun() == frozenset()
    assert place.status("friday")["state"] == "done"
    place.watch_once(label=never)


def test_a_drop_that_failed_and_was_changed_is_tried_at_once(place, clock):
    folder = place.drop("friday", 0)
    watcher = place.watcher(
        clock=clock, label=lambda runs, progress, stop: broken(runs, progress, stop)
    )
    watcher.backlog.look()
    watcher.label()
    assert watcher.unfinished == ["friday"]
    (folder / "1.jpg").write_bytes(load_photos()[1].data)
    watcher.backlog.sweep()
    assert watcher.unfinished == []
    assert watcher.backlog.waiting["friday"].is_complete
