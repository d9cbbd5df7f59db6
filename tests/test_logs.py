"""Logs for programs: what stands in a line, and what never does."""

import io
import json
import logging
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest

from tests.workbench import CountingEngine, FlakyStore, label, plan, put_photos, tiny_engine
from workers import logs
from workers.logs import REPLICA, Level, json_line, log_as_json, log_error
from workers.progress import Progress
from workers.summaries import RunSummary, ShardSummary

SIGNED = "https://host/x.jpg?X-Amz-Credential=AK&X-Amz-Signature=abc"


@pytest.fixture
def lines(monkeypatch):
    """What this process logs as JSON, as in a replica; and all as it was afterwards."""
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers, root.level, logging.getLogger(REPLICA).level
    monkeypatch.setattr(logs, "_as_json", False)
    log_as_json(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers = before[0]
    root.setLevel(before[1])
    logging.getLogger(REPLICA).setLevel(before[2])


def test_a_line_has_a_time_with_its_zone_and_only_the_ids_that_are_known():
    line = json.loads(json_line("done", Level.INFO, "label", run="r1", shard=None, record=0))
    when = datetime.fromisoformat(line.pop("time"))
    assert timedelta(0) <= datetime.now(UTC) - when < timedelta(seconds=10)
    assert line == {"level": "info", "message": "done", "from": "label", "run": "r1", "record": 0}


def test_a_line_is_one_line_whatever_is_said_and_hides_signatures():
    line = json_line(f"a\nb\u2028 {SIGNED} é", Level.ERROR, "label")
    assert len(line.splitlines()) <= 2  # U+2028 ends a line for Python, not for a log reader
    assert "\n" not in line
    message = json.loads(line)["message"]
    assert "abc" not in message
    assert "X-Amz-Signature=..." in message


def test_what_replicas_log_has_its_level_its_ids_and_its_traceback(lines):
    try:
        raise RuntimeError(SIGNED)
    except RuntimeError as error:
        logging.getLogger("workers.model_thread").warning("%d samples", 3, exc_info=error)
    logging.getLogger(REPLICA).info("begun", extra={"run": "r1", "shard": "s1", "record": 7})
    logging.getLogger("some.library").info("chatter")
    warning, info = lines()
    assert warning["level"] == "warning"
    assert "RuntimeError" in warning["message"]
    assert "abc" not in warning["message"]
    assert (info["run"], info["shard"], info["record"]) == ("r1", "s1", 7)
    assert info["from"] == REPLICA


def test_the_last_words_of_a_replica_are_as_before_without_json_and_a_line_with_it(
    capsys, monkeypatch, lines
):
    log_error("this replica is broken")
    assert lines()[-1]["level"] == "error"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(logs, "_as_json", False)
    log_error("this replica is broken")
    assert capsys.readouterr().err == "this replica is broken\n"


def test_a_shard_tells_its_ids_and_rejected_records_and_no_text_that_was_asked(lines):
    store = FlakyStore()
    put_photos(store, 1)
    store.put("mem://b/in/broken.jpg", b"no picture")
    (shard,) = plan(store, 100)
    label(store, CountingEngine(tiny_engine()), [shard])
    told = lines()
    assert {line["shard"] for line in told} == {shard.shard_id}
    assert {line["run"] for line in told} == {"run-1"}
    rejected = [line for line in told if "record" in line]
    assert {line["message"] for line in rejected} == {"rejected_input: image_unknown_format"}
    assert "committed: 4 rows of 2 records" in told[-1]["message"]
    assert "the dog" not in f"{told}"


def test_without_json_a_shard_says_nothing(capsys):
    store = FlakyStore()
    store.put("mem://b/in/broken.jpg", b"no picture")
    label(store, CountingEngine(tiny_engine()), plan(store, 100))
    assert capsys.readouterr() == ("", "")


# ---- the driver ----


def progress_as_json(terminal: bool = False) -> tuple[Progress, io.StringIO]:
    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    stream = Stream()
    progress = Progress(stream)
    progress.speak_json()
    return progress, stream


def read(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("terminal", [False, True])
def test_all_that_a_driver_says_is_lines_of_json_also_on_a_terminal(terminal):
    progress, stream = progress_as_json(terminal)
    progress.about("run-7")
    progress.say("starting")
    with progress.running(2, 4):
        progress.add(ShardSummary("run-8", "s1", rows=2, records=2))
        progress.add(ShardSummary("run-8", "s2", error="busy", ends_run=False))
    starting, failed, last = read(stream)
    assert (starting["message"], starting["run"], starting["level"]) == (
        "starting",
        "run-7",
        "info",
    )
    assert (failed["run"], failed["shard"], failed["level"]) == ("run-8", "s2", "error")
    assert "2/2 shards" in last["message"]


def test_at_the_end_the_numbers_of_the_table_are_a_line(capsys):
    progress, stream = progress_as_json()
    summary = RunSummary(
        run_id="run-7",
        output="/out",
        shards=3,
        found_committed=1,
        counts={"ok": 5},
        errors={},
        targets=9,
        reused=0,
        seconds=1.23456,
        pace=4.0,
        at_once=2.0,
        failures={"s2": "busy"},
    )
    progress.conclude(summary)
    (line,) = read(stream)
    assert line["level"] == "error"
    numbers = {name: line[name] for name in ("run", "shards", "committed", "rows", "masks")}
    assert numbers == {"run": "run-7", "shards": 3, "committed": 2, "rows": {"ok": 5}, "masks": 9}
    assert line["exit_code"] == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("job", ["label", "plan", "watch"])
def test_a_job_says_what_is_wrong_as_json_too(job, tmp_path, capsys):
    given = ["--input", f"{tmp_path}", "--output", f"{tmp_path}/out", "--log-format", "json"]
    main = import_module(f"jobs.{job}").main
    assert main([*given, "--once", "--model", "/nowhere"] if job == "watch" else given) == 2
    *_, last = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (last["level"], last["from"]) == ("error", job)
