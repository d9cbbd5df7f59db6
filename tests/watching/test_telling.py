import json

import pytest

from tests.here import label_runs_here
from tests.watching.labelling import never
from workers.errors import AccessDenied
from workers.logs import Level
from workers.progress import Progress
from workers.runs import plan_run
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.stores import Anywhere
from workers.watching.days import Days
from workers.watching.status import DropStatus, State
from workers.watching.telling import Teller
from workers.watching.watcher import Watcher


@pytest.mark.parametrize("call", ["-monday.json", ".md", "labelled/monday/"])
def test_a_store_that_fails_while_a_drop_is_told_of_leaves_no_drop_untold(place, monkeypatch, call):
    place.drop("monday", 0)
    refuse_once(monkeypatch, call)
    with pytest.raises(AccessDenied):
        place.watch_once()
    place.watch_once("--lease-seconds", "1")
    assert place.status("monday")["state"] == "done"
    (page,) = (place.output / "_days").glob("*.md")
    assert "| monday | done |" in page.read_text()
    place.watch_once(label=never)


def refuse_once(monkeypatch, call: str) -> None:
    put = LocalStore.put

    def failing(store, uri, data):
        if call in uri and b'"labelling"' not in data:
            monkeypatch.setattr(LocalStore, "put", put)
            raise AccessDenied("no such right")
        return put(store, uri, data)

    monkeypatch.setattr(LocalStore, "put", failing)


def test_a_drop_whose_status_can_not_be_written_is_told_of_on_the_page_and_told_again(
    place, monkeypatch
):
    place.drop("monday", 0)
    place.drop("friday", 1)
    refuse_once(monkeypatch, "monday/_status.json")
    assert place.watch_once().unfinished == ["monday"]
    assert place.status("friday")["state"] == "done"
    (page,) = (place.output / "_days").glob("*.md")
    assert "| monday | unfinished |" in page.read_text()
    assert "Its \\_status.json can't be written: no such right" in page.read_text()
    place.watch_once()
    assert place.status("monday")["state"] == "done"
    place.watch_once(label=never)


@pytest.mark.parametrize(
    ("state", "told"), [(State.DONE, State.UNFINISHED), (State.GONE, State.GONE)]
)
def test_what_was_deleted_is_gone_also_where_no_status_can_be_written(monkeypatch, state, told):
    store = MemoryStore()
    put = store.put

    def refusing(uri, data):
        if uri.endswith("_status.json"):
            raise AccessDenied("no such right")
        return put(uri, data)

    monkeypatch.setattr(store, "put", refusing)
    status = DropStatus.begin("friday", state, "said", source="", labels="mem://b/out/friday")
    teller = Teller(store, Days(store, "mem://b/out"), lambda *_, **__: None)
    assert teller.tell(status) is told
    (page,) = (each.uri for each in store.list("mem://b/out") if each.uri.endswith(".md"))
    assert f"| friday | {told} |" in store.get(page).decode()


def test_what_is_told_matters_as_much_as_what_became_of_the_drop():
    said, store = [], MemoryStore()
    teller = Teller(store, Days(store, "mem://b/out"), lambda *line, **_: said.append(line))
    for state in State:
        labels = f"mem://b/out/{state}"
        status = DropStatus.begin(f"{state}", state, "said", source="mem://b/in", labels=labels)
        assert teller.tell(status) is state
        assert DropStatus.read(store, labels) == status
    stopped = DropStatus.begin(
        "stopped", State.UNFINISHED, "said", source="", labels="mem://b/out/s"
    )
    teller.tell(stopped, on_purpose=True)
    teller.tell_by_page("no name", "it has none", source="mem://b/in")
    assert dict(said) == {
        "labelling: said": Level.INFO,
        "done: said": Level.INFO,
        "unfinished: said": Level.ERROR,
        "refused: said": Level.WARNING,
        "gone: said": Level.INFO,
        "stopped: said": Level.INFO,
        "no name: it has none": Level.WARNING,
    }


def test_a_name_with_line_breaks_is_told_in_one_line(place):
    place.drop("a\nwatch: b: labelled\x1b[31m", 0)
    place.watch_once()
    assert "\nwatch: b" not in place.told.getvalue()
    assert "\x1b" not in place.told.getvalue()


def test_lines_of_json_name_the_drop_that_they_are_about(place):
    place.drop("fri\nday", 0)
    progress = speaking_json(place)
    settings = place.settings("--settle-seconds", "60")
    watcher = Watcher(Anywhere(), settings, progress, place.stop, label=label_runs_here)
    watcher.backlog.look()
    (place.input / "fri\nday" / "_READY").touch()
    watcher.backlog.look_at("fri\nday")
    watcher.label()
    place.drop("monday", 1)
    watcher.backlog.look_at("monday")
    place.stop.ask("asked to end")
    watcher.watch()
    assert said_of_drops(place) == {
        ("fri\nday", "1 file, complete"),
        ("fri\nday", "labelled: 1 answ"),
        ("monday", "1 file, complete"),
        ("monday", "left for another"),
    }


def test_a_line_of_json_names_the_drop_that_is_left_for_another_look(place, monkeypatch):
    place.drop("fri\nday", 0)
    progress = speaking_json(place)

    def planning(*arguments, **more):
        place.drop("fri\nday", 1)
        return plan_run(*arguments, **more)

    monkeypatch.setattr("workers.watching.planning.plan_run", planning)
    watcher = Watcher(Anywhere(), place.settings(), progress, place.stop, label=never)
    watcher.backlog.look()
    watcher.label()
    assert ("fri\nday", "it changed while") in said_of_drops(place)


def speaking_json(place) -> Progress:
    progress = Progress(place.told, name="watch")
    progress.speak_json()
    return progress


def said_of_drops(place) -> set[tuple[str, str]]:
    """Names of drops, and how the lines that name them begin behind the name."""
    lines = [json.loads(line) for line in place.told.getvalue().splitlines()]
    of_drops = [each for each in lines if "drop" in each]
    return {(each["drop"], each["message"].partition(": ")[2][:16]) for each in of_drops}
