import pytest

from workers.errors import AccessDenied, CommitError
from workers.labels.sums import Sums
from workers.storage.memory import MemoryStore
from workers.summaries import RunSummary
from workers.watching.cursor import Changes
from workers.watching.problems import QUESTION_CHARS, Problem
from workers.watching.status import NAMES_SHOWN, DropStatus, State, say_trouble, say_what_came


def test_bad_files_are_told_with_reasons_and_the_rest_is_labelled(place):
    folder = place.drop("friday", 0)
    (folder / "broken.jpg").write_bytes(b"no picture")
    place.watch_once()
    status = place.status("friday")
    assert status["counts"]["rejected_input"] == 1
    (problem,) = status["problems"]
    assert problem["image"].endswith("broken.jpg")
    assert problem["reason"] in status["reasons"]
    assert problem["instruction"] == "the dog"
    assert "1 question without one" in status["message"]


def test_a_long_question_is_told_by_how_it_begins(place):
    (place.drop("friday") / "broken.jpg").write_bytes(b"no picture")
    place.watch_once("--instruction", "a dog " * 100)
    (problem,) = place.status("friday")["problems"]
    assert problem["instruction"].startswith("a dog a dog ")
    assert len(problem["instruction"]) <= QUESTION_CHARS + len("...")


def test_files_that_are_not_read_are_named(place):
    folder = place.drop("friday", 0)
    for name in ("0.txt", "film.mp4", "IMG_1.HEIC", "notes.txt", "_pixellm.yaml"):
        (folder / name).write_text("")
    place.watch_once()
    status = place.status("friday")
    assert status["not_read"] == ["IMG_1.HEIC", "film.mp4", "notes.txt"]
    assert "3 files of a kind that is not read" in status["message"]


def summary_of(**changed) -> RunSummary:
    values = {
        "run_id": "r",
        "output": "mem://b/out/a",
        "shards": 2,
        "found_committed": 0,
        "counts": {"ok": 2, "rejected_input": 1},
        "errors": {"image_broken": 1},
        "targets": 3,
        "reused": 1,
        "seconds": 1.0,
        "pace": 1.0,
        "at_once": 1.0,
        "failures": {},
        "asked": 2,
    }
    return RunSummary(**{**values, **changed})


STATUS = DropStatus.begin("a", State.DONE, "said", source="mem://b/in/a", labels="mem://b/out/a")


def test_a_status_is_read_as_it_was_written():
    changes = Changes(new=tuple(f"{n:02}.jpg" for n in range(30)), deleted=("caf\udce9.jpg",))
    problems = (Problem("1.jpg", "i", "rejected_input", "image_broken", "cut off"),)
    status = STATUS.with_changes(changes).with_run(summary_of(), problems, 1)
    assert status.changes == {"new": 30, "replaced": 0, "deleted": 1}
    assert len(status.changed["new"]) == NAMES_SHOWN
    assert status.changed["deleted"] == ("caf\\xe9.jpg",)
    assert (status.rows, status.masks, status.kept) == (3, 3, 1)
    assert DropStatus.from_json(status.to_json()) == status
    store = MemoryStore()
    status.write(store)
    assert DropStatus.read(store, status.labels) == status


def test_the_numbers_of_a_drop_are_the_sums_of_its_parts():
    parts = [
        Sums(rows=3, counts={"ok": 3}, targets=4),
        Sums(rows=2, counts={"ok": 1, "failed": 1}, errors={"too_long": 1}, targets=1),
    ]
    status = STATUS.with_run(summary_of().with_sums_of(parts), (), 0)
    assert (status.rows, status.counts, status.masks) == (5, {"ok": 4, "failed": 1}, 5)
    assert status.reasons == {"too_long": 1}


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"state": "other"}', b"\xff"])
def test_a_status_of_another_version_is_as_good_as_none(text):
    store = MemoryStore()
    store.put("mem://b/out/a/_status.json", text)
    assert DropStatus.read(store, "mem://b/out/a") is None
    assert DropStatus.read(store, "mem://b/out/none") is None


def test_one_sentence_says_what_came():
    said = say_what_came(summary_of(), not_read=2)
    assert said.startswith("labelled: 2 answers with 3 masks; 1 question without one, see")
    assert "2 files of a kind that is not read" in said
    assert "3 images beside lists. The labels" in say_what_came(
        summary_of(), 0, "3 images beside lists"
    )
    left = say_what_came(summary_of(failures={"s": "the bucket burns"}), not_read=0)
    assert left.startswith("1 of 2 parts are not labelled yet (the bucket burns)")
    denied = say_what_came(summary_of(errors={"image_unreadable": 1}), not_read=0)
    assert "give it the right, or take the image away; tried again until then" in denied


def test_what_is_wrong_with_an_output_comes_with_a_way_out():
    assert "remove it" in say_trouble(CommitError("'x.json' is not a JSON object"))
    assert say_trouble(AccessDenied("change its mode")).startswith("change its mode. Tried again")
