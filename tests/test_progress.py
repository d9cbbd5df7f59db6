import io
import json
import time
from collections import Counter

from workers.progress import Progress
from workers.summaries import Pulse, ShardSummary, Tally


def summary(number: int, **more) -> ShardSummary:
    values = {"rows": 4, "counts": {"ok": 3, "failed": 1}, "targets": 6, "records": 2, **more}
    return ShardSummary("run", f"{number:020}", **values)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_tells_shards_pace_failures_and_the_time_left():
    progress = Progress(io.StringIO())
    with progress.running(8):
        progress.add(summary(1))
        progress.add(summary(2, counts={"rejected_input": 4}))
        text = progress.line(seconds=4.0)
    assert text == (
        "2/8 shards  4 records  1.0 records/s  3.0 targets/s  4 rejected  1 failed  12 s left"
    )


def test_the_line_counts_records_of_shards_that_are_under_way():
    progress = Progress(io.StringIO())
    with progress.running(8, records=20):
        progress.hear(Pulse(replicas=1, records=5))
        text = progress.line(seconds=5.0)
        assert text.startswith("0/8 shards  5/20 records  1.0 records/s  0.0 targets/s")
        assert text.endswith("15 s left")
        progress.hear(Pulse(replicas=1, records=0))  # its book was lost with a machine
        progress.add(summary(1))
        assert progress.line(seconds=5.0).startswith("1/8 shards  2/20 records  0.4 records/s")


def test_the_pace_counts_from_the_first_replica_that_is_ready(monkeypatch):
    now = 0.0
    monkeypatch.setattr("workers.progress.time.monotonic", lambda: now)
    told = io.StringIO()
    progress = Progress(told)
    progress.hear(Pulse(replicas=0, records=0))
    now = 30.0
    progress.hear(Pulse(replicas=1, records=0))
    now = 40.0
    progress.hear(Pulse(replicas=2, records=0))
    assert told.getvalue().splitlines() == [
        "label: the first replica has loaded the model, after 30 s"
    ]
    assert progress._started == 30.0


def test_a_failed_shard_is_told_at_once_and_counted():
    told = io.StringIO()
    progress = Progress(told)
    with progress.running(3):
        progress.add(ShardSummary("run", "a" * 20, error="the store is down"))
    assert f"shard {'a' * 20} failed: the store is down" in told.getvalue()
    assert "1/3 shards" in told.getvalue()
    assert "1 failed" in told.getvalue()


def test_a_terminal_gets_one_line_that_is_written_over():
    told = Terminal()
    progress = Progress(told)
    with progress.running(2):
        with progress._lock:
            progress._show()
        progress.say("something happened")
        progress.add(summary(1))
    text = told.getvalue()
    assert text.count("\n") == 2
    assert "\rlabel: something happened\n" in text
    assert text.endswith("\n")


def test_a_log_gets_whole_lines_only():
    told = io.StringIO()
    with Progress(told).running(2):
        pass
    assert "\r" not in told.getvalue()
    assert told.getvalue().startswith("label: 0/2 shards")


def test_shards_that_others_heard_of_and_own_ones_are_summed_up_alike():
    tally = Tally()
    own = summary(1, errors={"image_broken": 1}, reused=2)
    tally.add(own)
    tally.add_committed(own)
    assert (tally.done, tally.records, tally.reused) == (2, 2, 2)
    assert (tally.counts, tally.errors) == ({"ok": 6, "failed": 2}, {"image_broken": 2})
    assert tally.targets == 12


def test_questions_under_way_at_once_are_averaged_over_the_shards_that_had_any():
    tally = Tally()
    for each in (summary(1, at_once=0.5), ShardSummary("run", "a", error="no"), summary(2)):
        tally.add(each)
    assert tally.at_once == 0.5


def test_the_pace_is_that_of_questions_which_were_asked_in_this_start(monkeypatch):
    now = iter(float(second) for second in range(1000))
    monkeypatch.setattr("workers.progress.time.monotonic", lambda: next(now))
    monkeypatch.setattr(Progress, "_tick", lambda *_: None)
    monkeypatch.setattr(Progress, "_show", lambda *_, **__: None)
    progress = Progress(io.StringIO())
    with progress.running(1):
        begun = progress._started
        progress.add(summary(1, reused=2, counts={"ok": 10, "empty": 4}))
    assert progress.pace == 12 / (next(now) - 1 - begun)


def test_when_no_replica_gets_ready_that_is_said_once(monkeypatch):
    """Ray starts killed workers again and again, without a word of its own."""
    told = io.StringIO()
    progress = Progress(told)
    progress.hear(Pulse())
    assert told.getvalue() == ""
    monkeypatch.setattr("workers.progress.PATIENCE_SECONDS", 0.0)
    progress.hear(Pulse())
    progress.hear(Pulse())
    assert told.getvalue().count("no replica is ready after") == 1
    assert "out of memory?" in told.getvalue()
    progress.hear(Pulse(replicas=1))
    progress.hear(Pulse())  # its book was made anew
    progress.hear(Pulse(replicas=1))
    assert progress.replicas == 1
    assert told.getvalue().count("the first replica has loaded the model") == 1
    assert told.getvalue().count("no replica is ready after") == 1


def test_a_tally_adds_up_the_rows_of_the_shards_that_are_committed():
    tally = Tally()
    tally.add(summary(1, errors={"image_missing": 1}, reused=3))
    tally.add(ShardSummary("run", "b", error="no"))
    tally.add_committed(summary(2, errors={"image_missing": 2, "image_damaged": 1}))
    assert tally == Tally(
        done=2,
        records=2,
        targets=12,
        reused=3,
        counts=Counter(ok=6, failed=2),
        errors=Counter(image_missing=3, image_damaged=1),
        failures={("run", "b"): "no"},
    )


def test_lines_of_json_say_which_command_they_are_from():
    told = io.StringIO()
    progress = Progress(told, name="watch")
    progress.speak_json()
    progress.say("hello")
    assert json.loads(told.getvalue())["from"] == "watch"


def wait_until_it_is_said(told: io.StringIO, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in told.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_log_says_nothing_of_shards_before_a_replica_is_ready_and_the_end_once(monkeypatch):
    monkeypatch.setattr("workers.progress.LOG_SECONDS", 0.02)
    progress = Progress(told := io.StringIO())
    with progress.running(2):
        time.sleep(0.1)
        progress.say("starting")
        progress.hear(Pulse(replicas=1))
        wait_until_it_is_said(told, "0/2 shards")
        progress.add(summary(1))
        wait_until_it_is_said(told, "1/2 shards")
        progress.add(summary(2))
        time.sleep(0.1)
    lines = told.getvalue().splitlines()
    assert lines[0] == "label: starting"
    assert [line.partition("  ")[0] for line in lines].count("label: 2/2 shards") == 1
    assert "1/2 shards" in told.getvalue()


def test_the_pace_stays_once_the_last_shard_is_in(monkeypatch):
    now = 10.0
    monkeypatch.setattr("workers.progress.time.monotonic", lambda: now)
    progress = Progress(io.StringIO())
    with progress.running(1):
        now = 14.0
        progress.add(summary(1))
        now = 100.0
    assert (progress.seconds, progress.pace) == (4.0, 1.0)
