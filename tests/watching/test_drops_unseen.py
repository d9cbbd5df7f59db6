"""Drops in which something can't be looked at."""

import os
from pathlib import Path

import pytest

from workers.errors import AccessDenied


def unreadable(folder: Path, monkeypatch) -> None:
    """A folder that nobody may look into, whoever runs the tests."""
    scandir = os.scandir

    def refusing(path):
        if Path(path) == folder:
            raise PermissionError(13, "no", f"{path}")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


@pytest.mark.parametrize("inner", [".", "deep"])
def test_a_folder_that_may_not_be_read_is_the_trouble_of_its_drop_alone(place, monkeypatch, inner):
    for number, name in enumerate(("bad", ".", "good")):
        place.drop(name, number)
    place.drop("bad/deep", 3)
    place.watch_once()
    place.drop("good", 4)
    place.drop(".", 5)
    with monkeypatch.context() as patched:
        unreadable(place.input / "bad" / inner, patched)
        assert place.watch_once().unfinished == ["bad"]
    assert (place.status("good")["state"], place.status("_loose")["state"]) == ("done", "done")
    status = place.status("bad")
    assert status["state"] == "unfinished"
    assert "may not be used by this user. Change its owner or its mode" in status["message"]
    assert status["changes"] == {}  # what can't be seen is not deleted
    assert place.watch_once().unfinished == []
    assert place.status("bad")["state"] == "done"
    assert place.images("bad") == ["0.jpg", "3.jpg"]


def test_a_drop_that_gets_a_folder_that_may_not_be_read_is_not_as_it_was_labelled(
    place, monkeypatch
):
    folder = place.drop("friday", 0)
    place.watch_once()
    (folder / "new").mkdir()  # and what is in it nobody knows
    with monkeypatch.context() as patched:
        unreadable(folder / "new", patched)
        assert place.watch_once().unfinished == ["friday"]
    assert place.status("friday")["state"] == "unfinished"
    assert place.watch_once().unfinished == []
    assert place.status("friday")["state"] == "done"


def test_a_link_to_itself_is_the_trouble_of_its_drop_alone(place):
    place.drop("bad", 0)
    place.drop("good", 1)
    link = place.input / "bad" / "self"
    link.symlink_to("self")
    assert place.watch_once().unfinished == ["bad"]
    assert place.status("good")["state"] == "done"
    assert f"{link}" in place.status("bad")["message"]
    link.unlink()
    assert place.watch_once().unfinished == []
    assert place.status("bad")["state"] == "done"


def test_an_input_that_may_not_be_read_is_no_drop(place, monkeypatch):
    place.drop("friday", 0)
    unreadable(place.input, monkeypatch)
    for look in (place.watcher().backlog.sweep, lambda: place.watcher().backlog.look_at("_loose")):
        with pytest.raises(AccessDenied):
            look()
