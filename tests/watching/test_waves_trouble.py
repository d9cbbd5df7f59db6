"""What is wrong with one drop of a wave is told with that drop, and the others go on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.here import label_runs_here
from tests.watching.labelling import never
from workers.errors import (
    AccessDenied,
    ObjectMissing,
)
from workers.storage.local import LocalStore
from workers.storage.stores import Anywhere
from workers.watching.leases import Leases


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


def damage(path: Path) -> Callable[[], None]:
    path.write_bytes(b"nonsense")
    return path.unlink


def damage_table(place) -> Callable[[], None]:
    """The object with all markers; its message says that the manifest must go, too."""
    (packed,) = (place.output / "friday" / "_runs").glob("*.gz")
    damage(packed)
    return lambda: [path.unlink() for path in packed.parent.iterdir()]


DAMAGES = {
    "manifest": lambda place: damage(next((place.output / "friday" / "_runs").glob("*.json"))),
    "marker": lambda place: damage(next((place.output / "friday" / "_commits").rglob("*.json"))),
    "table": damage_table,
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_an_output_that_is_damaged_is_the_trouble_of_its_drop_alone(place, kind):
    place.drop("friday", 0, 1, 2, 3)
    place.watch_once()
    mend = DAMAGES[kind](place)
    place.drop("friday", 4, 5, 6, 7)
    place.drop("monday", 0)
    assert place.watch_once().unfinished == ["friday"]
    assert place.status("monday")["state"] == "done"
    status = place.status("friday")
    assert status["state"] == "unfinished"
    assert str(place.output / "friday") in status["message"]
    assert "Where a file of the output is damaged, remove it" in status["message"]
    (page,) = (place.output / "_days").glob("*.md")
    assert "| friday | unfinished |" in page.read_text()
    lease = Leases(Anywhere(), str(place.output), 60.0).acquire("friday")
    assert lease is not None
    lease.release()  # else the next watcher waits 90 s for whoever has it
    place.watch_once("--lease-seconds", "1")  # at every start
    mend()  # as was told
    assert place.watch_once("--lease-seconds", "1").unfinished == []
    assert place.status("friday")["state"] == "done"
    assert place.images("friday") == [f"{number}.jpg" for number in range(8)]


def test_a_drop_whose_output_is_damaged_is_tried_again_later_and_later(place, clock):
    place.drop("friday", 0)
    place.watch_once()
    place.drop("friday", 1)
    DAMAGES["manifest"](place)
    watcher = place.watcher(clock=clock)
    for _ in range(40):
        watcher.backlog.look()
        watcher.label()
        clock.pass_by(1)
    entries = (place.output / "_days").rglob("*-friday.json")
    assert len(list(entries)) == 1 + 4  # at 0, 5, 15 and 35 s


def test_a_part_that_is_gone_is_the_trouble_of_its_drop_alone(place):
    (place.drop("friday", 0) / "bad.jpg").write_bytes(b"no picture")

    def losing(runs, progress, stop):
        for summary in label_runs_here(runs, progress, stop):
            for part in (place.output / "friday" / "labels").rglob("*.parquet"):
                part.unlink()
            yield summary

    place.drop("monday", 1)
    assert place.watch_once(label=losing).unfinished == ["friday"]
    assert place.status("monday")["state"] == "done"
    assert "is committed and is not there any more" in place.status("friday")["message"]


def test_a_drop_whose_status_may_never_be_written_keeps_no_other_from_its_labels(place):
    place.drop("friday", 0)
    place.drop("monday", 1)
    (place.output / "friday" / "_status.json").mkdir(parents=True)
    assert place.watch_once().unfinished == ["friday"]
    assert place.status("monday")["state"] == "done"
    (page,) = (place.output / "_days").glob("*.md")
    assert "| friday | unfinished |" in page.read_text()


# ---- images that the watcher may not read ----


@pytest.fixture
def denied(monkeypatch) -> set[str]:
    """Names of files that may not be read as long as they are in it."""
    names, opening = set[str](), LocalStore.open

    def open_(store, uri):
        if Path(uri).name in names:
            raise AccessDenied(f"{uri!r} may not be used by this user")
        return opening(store, uri)

    monkeypatch.setattr(LocalStore, "open", open_)
    return names


def test_an_image_that_may_not_be_read_for_a_while_is_asked_once_it_may(place, clock, denied):
    place.drop("friday", 0, 1)
    denied.add("1.jpg")
    watcher = place.watcher(clock=clock)

    def go_on(seconds: int) -> None:
        for _ in range(seconds):
            watcher.backlog.look()
            watcher.label()
            clock.pass_by(1)

    go_on(20)
    status = place.status("friday")
    assert status["state"] == "unfinished"
    assert status["reasons"] == {"image_unreadable": 1}
    assert (
        "1 of these because the watcher may not read the image: give it the right"
        in (status["message"])
    )
    assert watcher.unfinished == ["friday"]
    assert len(list((place.output / "friday" / "_runs").glob("*.json"))) == 1  # no new table
    denied.clear()
    go_on(40)
    assert place.status("friday")["state"] == "done"
    assert place.status("friday")["kept"] == 1  # what was labelled is not asked again
    assert [row.error_code for row in place.rows("friday")] == [None, None]
    assert watcher.unfinished == []
    place.watch_once(label=never)


def test_an_image_that_may_not_be_read_is_looked_at_by_the_next_watcher_too(place, denied):
    place.drop("friday", 0, 1)
    denied.add("1.jpg")
    assert place.watch_once().unfinished == ["friday"]
    denied.clear()
    assert place.watch_once().unfinished == []
    assert [row.error_code for row in place.rows("friday")] == [None, None]
