from tests.here import label_runs_here
from tests.watching.labelling import never
from workers.driver import label_runs
from workers.errors import (
    ExportError,
)
from workers.runs import plan_run
from workers.storage.stores import Anywhere
from workers.watching.leases import Leases


def test_a_drop_asks_its_own_question(place):
    folder = place.drop("friday", 0)
    (folder / "_pixellm.yaml").write_text("instruction: the cat\ncoco: true\n")
    place.watch_once()
    assert [row.instruction for row in place.rows("friday")] == ["the cat"]
    assert (place.output / "friday" / "coco.json").exists()


def test_labels_are_also_written_in_the_forms_that_are_asked_for(place):
    place.drop("friday", 0)
    place.watch_once("--coco", "--exports", "records")
    for name in ("coco.json", "records.jsonl"):
        assert (place.output / "friday" / name).stat().st_size > 0
    message = place.status("friday")["message"]
    assert message.endswith("; also written as coco.json; also written as records.jsonl")


def test_a_drop_that_asks_for_what_it_may_not_is_refused_and_the_others_are_labelled(place):
    (place.drop("greedy", 0) / "_pixellm.yaml").write_text("model: /etc\n")
    place.drop("friday", 1)
    assert place.watch_once().unfinished == []
    status = place.status("greedy")
    assert status["state"] == "refused"
    assert "a drop can't set 'model'" in status["message"]
    assert place.status("friday")["state"] == "done"
    place.watch_once(label=never)  # it is not looked at again
    (place.input / "greedy" / "_pixellm.yaml").unlink()
    place.watch_once()
    assert place.status("greedy")["state"] == "done"


def test_a_drop_with_nothing_to_label_is_told_so(place):
    (place.drop("notes") / "minutes.docx").write_text("hello")
    place.watch_once()
    status = place.status("notes")
    assert status["state"] == "refused"
    assert "nothing to label" in status["message"]


def test_a_watcher_that_was_frozen_leaves_the_last_word_to_its_successor(place, clock):
    place.drop("friday", 0)

    def freezing(runs, progress, stop):
        for summary in label_runs_here(runs, progress, stop):
            clock.pass_by(61)  # and no beat came in that time
            yield summary

    watcher = place.watcher("--coco", clock=clock, label=freezing)
    watcher.backlog.look()
    watcher.label()
    assert place.status("friday")["state"] == "labelling"
    assert not (place.output / "friday" / "coco.json").exists()  # the successor may write it by now
    assert "friday" in watcher.backlog.waiting
    assert watcher.unfinished == []
    other = place.watcher(clock=clock)
    for _ in range(3):
        other.backlog.look()
        other.label()
        clock.pass_by(60)
    assert place.status("friday")["state"] == "done"
    watcher.backlog.look()
    assert watcher.backlog.waiting == {}


def test_a_watcher_that_is_asked_to_end_while_it_plans_begins_nothing_more(place, monkeypatch):
    place.drop("friday", 0)
    place.drop("monday", 1)

    def planning(*arguments, **more):
        place.stop.ask("asked to end")
        return plan_run(*arguments, **more)

    monkeypatch.setattr("workers.watching.planning.plan_run", planning)
    place.watcher(label=lambda *all_: label_runs(*all_, never)).watch()
    assert place.status("friday")["state"] == "unfinished"
    assert "asked to end" in place.status("friday")["message"]
    assert not (place.output / "monday").exists()
    assert Leases(Anywhere(), str(place.output), 60.0).acquire("monday") is not None


def test_a_coco_file_that_can_not_be_written_leaves_the_labels_as_good(place, monkeypatch):
    def failing(*_):
        raise ExportError("two pictures share a name")

    monkeypatch.setattr("workers.watching.waves.export_run", failing)
    place.drop("friday", 0)
    place.watch_once("--coco")
    status = place.status("friday")
    assert status["state"] == "done"
    assert status["message"].endswith("coco.json could not be written: two pictures share a name")


def test_a_lease_that_is_lost_at_the_very_end_leaves_the_last_word_to_the_successor(
    place, clock, monkeypatch
):
    def slowly(*_):
        clock.pass_by(61)

    monkeypatch.setattr("workers.watching.waves.export_run", slowly)
    place.drop("friday", 0)
    watcher = place.watcher("--coco", clock=clock)
    watcher.backlog.look()
    watcher.label()
    assert place.status("friday")["state"] == "labelling"
    assert watcher._cursor.marks_of("friday") == frozenset()
    assert not (place.output / "_days").exists()


def test_a_drop_with_nothing_in_it_but_its_mark_is_told_so_and_waits_for_more(place):
    (place.drop("friday") / "_READY").touch()
    assert place.watch_once().unfinished == []
    status = place.status("friday")
    assert (status["state"], status["files"], status["rows"]) == ("refused", 0, 0)
    assert "nothing is in it but _READY: images (bmp, gif," in status["message"]
    assert ".jsonl" in status["message"]
    place.watch_once(label=never)
    place.drop("friday", 0)
    place.watch_once()
    assert place.status("friday")["state"] == "done"
