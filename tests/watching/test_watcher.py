import io
import os
import threading
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.here import label_runs_here, replicas_here
from tests.photos import load_photos
from tests.same import assert_same_rows
from workers.driver import label_runs
from workers.errors import (
    AccessDenied,
    ExportError,
    LineError,
    ObjectMissing,
    QueueTrouble,
    SettingsError,
    StorageUnavailable,
)
from workers.labels.manifests import current_commits
from workers.labels.parts import read_rows
from workers.labels.schema import LabelRow
from workers.progress import Progress
from workers.runs import plan_run
from workers.stopping import Stop
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.stores import Anywhere
from workers.summaries import ShardSummary
from workers.watching.drops import LOOSE, find_drops
from workers.watching.event_queue import VISIBILITY_SECONDS
from workers.watching.leases import BEATS, Leases
from workers.watching.patience import LONGEST_WAIT, back_off
from workers.watching.watcher import POLL_SECONDS, Watcher


def test_what_is_dropped_is_labelled_and_its_owner_is_told(place):
    place.drop("friday", 0, 1, 2)
    place.drop(".", 3)
    assert place.watch_once().unfinished == []
    assert place.images("friday") == ["0.jpg", "1.jpg", "2.jpg"]
    assert place.images(LOOSE) == ["3.jpg"]
    status = place.status("friday")
    assert (status["state"], status["files"], status["rows"]) == ("done", 3, 3)
    assert status["labels"] == str(place.output / "friday")
    assert status["changes"] == {"new": 3, "replaced": 0, "deleted": 0}
    assert "labelled: 3 answers with" in status["message"]


def test_what_is_labelled_is_not_touched_again(place):
    place.drop("friday", 0)
    place.watch_once()
    before = snapshot(place.output)
    place.watch_once(label=never)
    assert snapshot(place.output) == before


def never(*_):
    raise AssertionError("there is nothing to label")


def snapshot(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


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


def test_once_what_is_settling_is_waited_for(place):
    place.drop("friday", 0)
    place.watch_once("--settle-seconds", "0.6")
    assert place.status("friday")["state"] == "done"


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


def test_bad_files_are_told_with_reasons_and_the_rest_is_labelled(place):
    folder = place.drop("friday", 0)
    (folder / "broken.jpg").write_bytes(b"no picture")
    place.watch_once()
    status = place.status("friday")
    assert status["counts"]["rejected_input"] == 1
    (problem,) = status["problems"]
    assert problem["image"].endswith("broken.jpg")
    assert problem["reason"] in status["reasons"]
    assert "1 question without one" in status["message"]


def test_what_another_watcher_has_in_hand_is_left_to_it(place, clock):
    place.drop("friday", 0)
    place.drop("monday", 1)
    other = Leases(Anywhere(), str(place.output), 60.0, clock)
    lease = other.take("friday")
    watcher = place.watcher(clock=clock)
    watcher.backlog.look()
    watcher.label()
    assert not (place.output / "friday").exists()
    assert place.status("monday")["state"] == "done"
    lease.release()
    clock.pass_by(60)
    watcher.backlog.look()
    watcher.label()
    assert place.status("friday")["state"] == "done"


def test_what_another_watcher_has_labelled_meanwhile_is_not_done_again(place, clock):
    place.drop("friday", 0)
    watcher = place.watcher(clock=clock, label=never)
    watcher.backlog.look()
    place.watch_once()
    watcher.label()
    assert watcher.unfinished == []


def test_two_watchers_at_once_do_each_drop_once(place):
    for name in "abcdef":
        place.drop(name, 0)
    labelled: list[str] = []

    def counting(runs, progress, stop):
        labelled.extend(run.ledger.output for run in runs)
        return label_runs_here(runs, progress, stop)

    watchers = [place.watcher("--once", "--drops-at-once", "1", label=counting) for _ in range(2)]
    threads = [threading.Thread(target=each.watch) for each in watchers]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert sorted(labelled) == [str(place.output / name) for name in "abcdef"]
    assert {place.status(name)["state"] for name in "abcdef"} == {"done"}


def test_a_drop_that_fails_is_tried_again_later_and_later(place, clock, monkeypatch):
    place.drop("friday", 0)
    attempts = []

    def failing(runs, progress, stop):
        attempts.append(clock())
        yield from broken(runs, progress, stop)

    watcher = place.watcher(clock=clock, label=failing)
    for _ in range(40):
        watcher.backlog.look()
        watcher.label()
        clock.pass_by(1)
    waits = [after - before for before, after in pairwise(attempts)]
    assert waits == [5, 10, 20]
    assert watcher.unfinished == ["friday"]
    status = place.status("friday")
    assert status["state"] == "unfinished"
    assert "the bucket burns" in status["message"]


def broken(runs, progress, stop):
    """Label nothing, since every shard fails."""

    def replicas(errands, settings, begin, progress, stop):
        for each in errands:
            yield ShardSummary(*each.key, error="the bucket burns")

    return label_runs(runs, progress, stop, replicas)


def test_once_a_drop_that_fails_ends_the_watcher_with_it_named(place):
    place.drop("friday", 0)
    watcher = place.watch_once(label=broken)
    assert watcher.unfinished == ["friday"]


def test_a_store_that_is_away_is_waited_for(place, monkeypatch):
    place.drop("friday", 0)
    monkeypatch.setattr("workers.watching.patience.FIRST_WAIT", 0.01)
    find, times = find_drops, []

    def away(*arguments):
        times.append(1)
        if len(times) < 3:
            raise StorageUnavailable("the bucket is away")
        return find(*arguments)

    monkeypatch.setattr("workers.watching.backlog.find_drops", away)
    place.watch_once()
    assert place.status("friday")["state"] == "done"
    assert place.told.getvalue().count("the bucket is away; tried again") == 2


def test_once_a_store_that_stays_away_ends_the_watcher(place, monkeypatch):
    monkeypatch.setattr("workers.watching.patience.FIRST_WAIT", 0.01)

    def away(*_):
        raise StorageUnavailable("the bucket is away")

    monkeypatch.setattr("workers.watching.backlog.find_drops", away)
    with pytest.raises(StorageUnavailable):
        place.watch_once()


def test_a_watcher_that_is_asked_to_end_keeps_what_is_done_and_the_next_does_the_rest(place):
    place.drop("friday", *range(6))

    def half(runs, progress, stop):
        def replicas(errands, settings, begin, progress, stop):
            for summary in replicas_here(errands, settings, begin, progress, stop):
                yield summary
                stop.ask("asked to end")

        return label_runs(runs, progress, stop, replicas)

    place.watcher(label=half).watch()
    status = place.status("friday")
    assert status["state"] == "unfinished"
    assert "asked to end" in status["message"]
    place.stop = type(place.stop)()
    place.watch_once()
    assert place.status("friday")["state"] == "done"
    assert place.images("friday") == [f"{number}.jpg" for number in range(6)]
    assert len(list((place.output / "friday" / "_commits").rglob("*.json"))) == len(
        {row.shard_id for row in place.rows("friday")}
    )


def test_a_refresh_looks_at_all_again_once(place):
    place.drop("friday", 0)
    place.watch_once()
    place.watch_once("--refresh")
    assert len(list((place.output / "_days").rglob("*.json"))) == 2
    assert place.status("friday")["kept"] == 1


def test_the_page_of_the_day_tells_of_every_drop(place):
    (place.drop("friday | 1", 0) / "bad.jpg").write_bytes(b"x")
    place.drop("empty")
    (place.input / "empty" / "x.docx").touch()
    place.watch_once()
    (page,) = (place.output / "_days").glob("*.md")
    text = page.read_text()
    assert "2 drops, 1 answer," in text
    assert "friday &#124; 1" in text
    assert "refused" in text
    assert "nothing to label" in text
    assert "image&#95;" in text or "image_" in text


def test_leases_are_given_back(place, clock):
    place.drop("friday", 0)
    place.watch_once()
    assert Leases(Anywhere(), str(place.output), 60.0, clock).take("friday") is not None


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


def test_a_watcher_that_was_frozen_leaves_the_last_word_to_its_successor(place, clock):
    place.drop("friday", 0)

    def freezing(runs, progress, stop):
        for summary in label_runs_here(runs, progress, stop):
            clock.pass_by(61)  # and no beat came in that time
            yield summary

    watcher = place.watcher(clock=clock, label=freezing)
    watcher.backlog.look()
    watcher.label()
    assert place.status("friday")["state"] == "labelling"
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


def by_image(rows: list[LabelRow]) -> list[LabelRow]:
    return sorted(rows, key=lambda row: row.image_uri)


def undisturbed(place, folder: Path) -> list[LabelRow]:
    """The rows of a labelling run over what is in a folder now."""
    output = str(place.output / "alone")
    settings = place.settings().model_copy(update={"input": str(folder), "output": output})
    list(label_runs_here([plan_run(settings, lambda _: None)], Progress(io.StringIO()), Stop()))
    return list(read_rows(Anywhere(), output, current_commits(Anywhere(), output)))


def test_files_that_are_not_read_are_named(place):
    folder = place.drop("friday", 0)
    for name in ("0.txt", "film.mp4", "IMG_1.HEIC", "notes.txt", "_pixellm.yaml"):
        (folder / name).write_text("")
    place.watch_once()
    status = place.status("friday")
    assert status["not_read"] == ["IMG_1.HEIC", "film.mp4", "notes.txt"]
    assert "3 files of a kind that is not read" in status["message"]


def test_a_watcher_that_finds_nothing_says_so_once(place):
    place.watch_once()
    assert "holds nothing yet" in place.told.getvalue()
    place.drop("friday", 0)
    place.watch_once()
    watcher = place.watcher()
    watcher.backlog.sweep()
    watcher.backlog.sweep()
    assert place.told.getvalue().count("nothing is new: 1 drop, all labelled") == 1


def test_a_drop_that_is_waited_for_is_told_of(place, clock):
    place.drop("friday", 0)
    place.watcher("--settle-seconds", "60", clock=clock).backlog.look()
    assert "friday: 1 file, complete in 60 s if nothing changes" in place.told.getvalue()


def test_once_a_drop_that_keeps_changing_is_left_for_another_time(place, clock):
    folder = place.drop("growing", 0)
    place.drop("friday", 1)
    watcher = place.watcher("--once", "--settle-seconds", "60", clock=clock)
    for number in (2, 3, 4):
        watcher.backlog.look()
        watcher.label()
        clock.pass_by(60)
        (folder / f"{number}.jpg").write_bytes(load_photos()[number].data)
    assert place.status("friday")["state"] == "done"
    assert not watcher.is_anything_left()
    watcher._say_what_is_left()
    assert "growing: left for another time, since it still changes" in place.told.getvalue()
    watcher.backlog.look()
    clock.pass_by(60)
    watcher.backlog.look()
    watcher.label()  # it has come to rest after all
    assert place.status("growing")["state"] == "done"


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
    assert f"* {os.fsdecode(name)[:3]}" in page.read_text()
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


@pytest.mark.parametrize("call", ["monday/_status.json", "-monday.json", ".md", "labelled/monday/"])
def test_a_store_that_fails_while_a_drop_is_told_of_leaves_no_drop_untold(place, monkeypatch, call):
    place.drop("monday", 0)
    put = LocalStore.put

    def failing(store, uri, data):
        if call in uri and b'"labelling"' not in data:
            monkeypatch.setattr(LocalStore, "put", put)
            raise AccessDenied("no such right")
        return put(store, uri, data)

    monkeypatch.setattr(LocalStore, "put", failing)
    with pytest.raises(AccessDenied):
        place.watch_once()
    place.watch_once("--lease-seconds", "1")
    assert place.status("monday")["state"] == "done"
    (page,) = (place.output / "_days").glob("*.md")
    assert "| monday | done |" in page.read_text()
    place.watch_once(label=never)


def test_a_refresh_asks_again_what_must_settle_first(place):
    place.drop("friday", 0)
    place.watch_once()
    place.watch_once("--refresh", "--settle-seconds", "0.6")
    assert len(list((place.output / "_days").rglob("*.json"))) == 2


def test_ctrl_c_while_drops_are_labelled_ends_the_watcher(place):
    place.drop("friday", 0, 1, 2)
    place.drop("monday", 3)

    def interrupted(runs, progress, stop):
        def replicas(errands, settings, begin, progress, stop):
            one_by_one = replicas_here(errands, settings, begin, progress, stop)
            yield next(one_by_one)
            one_by_one.close()
            raise KeyboardInterrupt

        return label_runs(runs, progress, stop, replicas)

    with pytest.raises(KeyboardInterrupt):
        place.watch_once("--drops-at-once", "1", label=interrupted)
    assert place.status("friday")["state"] == "unfinished"
    assert not (place.output / "monday").exists()
    place.watch_once()
    assert place.images("friday") == ["0.jpg", "1.jpg", "2.jpg"]
    assert place.status("monday")["state"] == "done"


def test_a_store_that_fails_while_drops_are_taken_in_hand_leaves_no_lease(place, monkeypatch):
    place.drop("friday", 0)
    place.drop("monday", 1)
    listing = LocalStore.list

    def failing(store, prefix):
        if prefix.endswith("labelled/monday"):
            raise StorageUnavailable("away")
        return listing(store, prefix)

    watcher = place.watcher()
    watcher.backlog.look()
    monkeypatch.setattr(LocalStore, "list", failing)
    with pytest.raises(StorageUnavailable):
        watcher.label()
    monkeypatch.setattr(LocalStore, "list", listing)
    assert watcher._in_hand == {}
    for name in ("friday", "monday"):
        assert Leases(Anywhere(), str(place.output), 60.0).take(name) is not None


def test_what_is_wrong_with_the_model_is_no_fault_of_a_drop(place, tiny_model):
    place.drop("friday", 0)
    watcher = place.watcher("--once")
    aside = tiny_model.rename(tiny_model.with_name("aside"))
    try:
        watcher.watch()
    finally:
        aside.rename(tiny_model)
    assert watcher.unfinished == ["friday"]
    assert "there is no such folder" in place.status("friday")["message"]
    place.watch_once()
    assert place.status("friday")["state"] == "done"


def test_a_drop_whose_files_go_while_it_is_planned_is_tried_again_beside_the_others(
    place, monkeypatch
):
    (place.drop("friday") / "list.parquet").write_bytes(b"PAR1")
    place.drop("monday", 0)
    opening = LocalStore.open

    def gone(store, uri):
        if uri.endswith(".parquet"):
            raise ObjectMissing("it was there")
        return opening(store, uri)

    monkeypatch.setattr(LocalStore, "open", gone)
    assert place.watch_once().unfinished == ["friday"]
    assert place.status("friday")["state"] == "unfinished"
    assert place.status("monday")["state"] == "done"


def test_a_watcher_that_is_asked_to_end_while_it_plans_begins_nothing_more(place, monkeypatch):
    place.drop("friday", 0)
    place.drop("monday", 1)

    def planning(*arguments, **more):
        place.stop.ask("asked to end")
        return plan_run(*arguments, **more)

    monkeypatch.setattr("workers.watching.waves.plan_run", planning)
    place.watcher(label=lambda *all_: label_runs(*all_, never)).watch()
    assert place.status("friday")["state"] == "unfinished"
    assert "asked to end" in place.status("friday")["message"]
    assert not (place.output / "monday").exists()
    assert Leases(Anywhere(), str(place.output), 60.0).take("monday") is not None


class Queue:
    """A queue that a watcher hears from, and that is away or full."""

    is_full = False

    def __init__(self, error: LineError | None = None) -> None:
        self.error, self.asked = error, []

    def receive(self, seconds):
        self.asked.append(seconds)
        if self.error:
            raise self.error
        return set()

    def settle(self, *_):
        pass

    def prolong(self):
        pass


def hearing(place, clock, queue: Queue) -> tuple[Watcher, list[float]]:
    watcher, slept = place.watcher(clock=clock), []
    watcher._news = queue

    def sleep(seconds):
        slept.append(seconds)
        clock.pass_by(seconds)

    watcher.patience.sleep = sleep
    return watcher, slept


def test_a_queue_that_is_away_is_asked_later_and_later_while_sweeps_go_on(place, clock):
    queue = Queue(QueueTrouble("the queue is away"))
    watcher, _ = hearing(place, clock, queue)
    times = []
    while len(times) < 4:
        with watcher.patience.about("store"):
            watcher.backlog.look()
        before = len(queue.asked)
        watcher.hear()
        if len(queue.asked) > before:
            times.append(clock())
    assert [after - before for before, after in pairwise(times)] == [20, 20, 20]
    assert [f"tried again in {n} s" in place.told.getvalue() for n in (5, 10, 20, 40)] == [True] * 4


def test_a_store_that_is_away_for_messages_alone_is_waited_for_longer_and_longer(place, clock):
    watcher, slept = hearing(place, clock, Queue(StorageUnavailable("away")))
    for _ in range(3):
        with watcher.patience.about("store"):
            watcher.backlog.look()
        watcher.hear()
    assert slept == [5, 10, 20]


def test_once_a_store_that_stays_away_ends_a_watcher_that_hears_from_a_queue(
    place, clock, monkeypatch
):
    watcher, _ = hearing(place, clock, Queue())
    watcher._settings = watcher._settings.model_copy(update={"once": True})
    watcher.patience._once = True

    def away(*_):
        raise StorageUnavailable("the bucket is away")

    monkeypatch.setattr("workers.watching.backlog.find_drops", away)
    with pytest.raises(StorageUnavailable):
        watcher.watch()


def test_a_hand_full_of_messages_is_no_reason_to_turn_round_all_the_time(place, clock):
    queue = Queue()
    queue.is_full = True
    watcher, slept = hearing(place, clock, queue)
    watcher.backlog.look()
    watcher.hear()
    assert slept == [POLL_SECONDS]


def test_messages_in_hand_are_prolonged_in_time_however_long_a_lease_is(place, monkeypatch):
    seconds = []

    @contextmanager
    def beating(each, *_):
        seconds.append(each)
        yield

    monkeypatch.setattr("workers.watching.watcher.beating", beating)
    for news in (None, Queue()):
        watcher = place.watcher("--once", "--lease-seconds", "3600")
        watcher._news = news
        watcher.watch()
    assert seconds == [3600 / BEATS, VISIBILITY_SECONDS / BEATS]


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


def test_a_refresh_is_not_cut_short_by_the_next_sweep(place, clock):
    place.drop("friday", 0)
    place.watch_once()
    watcher = place.watcher("--once", "--refresh", clock=clock)
    watcher.backlog.look()
    clock.pass_by(10_000)
    watcher.backlog.look()
    watcher.label()
    assert place.status("friday")["kept"] == 1


def test_of_two_watchers_one_tells_that_a_drop_is_gone(place, clock):
    folder = place.drop("friday", 0)
    place.watch_once()
    (folder / "0.jpg").unlink()
    watcher, other = place.watcher(clock=clock), place.watcher(clock=clock)
    seen = watcher._cursor.digests()
    other.backlog.look()
    assert "friday" in seen  # as in a sweep that began before the other one told of it
    watcher.backlog.tell_gone("friday", was_labelled=True)
    assert place.status("friday")["changed"] == {"deleted": ["0.jpg"]}
    assert len(list((place.output / "_days").rglob("*.json"))) == 2
    assert Leases(Anywhere(), str(place.output), 60.0).take("friday") is not None


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


def test_a_name_with_line_breaks_is_told_in_one_line(place):
    place.drop("a\nwatch: b: labelled\x1b[31m", 0)
    place.watch_once()
    assert "\nwatch: b" not in place.told.getvalue()
    assert "\x1b" not in place.told.getvalue()


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


def test_what_is_in_hand_is_kept_alive(place, clock):
    place.drop("friday", 0)
    watcher, other = place.watcher(clock=clock), Leases(Anywhere(), str(place.output), 60.0, clock)
    watcher.backlog.look()
    watcher._take_in_hand()
    for _ in range(9):
        assert other.take("friday") is None
        clock.pass_by(20)
        watcher._beat()
    assert other.is_alive("friday")


def test_once_a_drop_is_left_to_another_watcher_that_is_seen_to_be_alive(place, clock):
    place.drop("friday", 0)
    lease = Leases(Anywhere(), str(place.output), 60.0, clock).take("friday")
    watcher = place.watcher("--once", clock=clock, label=never)
    for is_left in (True, False):
        watcher.backlog.look()
        watcher.label()
        assert watcher.is_anything_left() is is_left
        clock.pass_by(20)
        lease.beat()


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


def test_waits_grow_to_an_hour_at_most():
    assert [back_off(tries) for tries in (1, 2, 3)] == [5, 10, 20]
    assert back_off(10_000) == LONGEST_WAIT <= 3_600


def test_of_a_drop_that_is_labelled_twice_a_day_its_answers_count_once(place):
    place.drop("friday", 0)
    place.watch_once()
    place.drop("friday", 1)
    place.watch_once()
    (page,) = (place.output / "_days").glob("*.md")
    assert "1 drop, 2 answers" in page.read_text()


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
    assert watcher._cursor.of("friday") == frozenset()
    assert not (place.output / "_days").exists()
