import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from workers.errors import LineError, SettingsError
from workers.settings import LabelSettings
from workers.stopping import Stop, ended_by_sigterm, read_deadline, until_stopped

NOW = datetime(2027, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("5h30m", NOW + timedelta(hours=5, minutes=30)),
        ("45m", NOW + timedelta(minutes=45)),
        ("2d", NOW + timedelta(days=2)),
        ("90s", NOW + timedelta(seconds=90)),
        ("12:30", NOW + timedelta(minutes=30)),
        ("12:00", NOW + timedelta(days=1)),
        ("06:00", NOW + timedelta(hours=18)),
        ("2027-01-31T14:00+01:00", NOW + timedelta(hours=1)),
        ("2027-01-31T13:00Z", NOW + timedelta(hours=1)),
    ],
)
def test_a_deadline_is_read_in_each_of_its_forms(text, when):
    assert read_deadline(text, NOW) == when


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2027-01-31T13:00", "no time zone"),
        ("2027-01-31T11:00Z", "has passed"),
        ("2027-01-31T12:00Z", "has passed"),
        ("soon", "'soon' is no time"),
        ("", "'' is no time"),
        ("25:00", "hour must be in"),
        ("4000000d", "'4000000d' lies behind the year 9999"),
        ("99999999999d", "'99999999999d' lies behind the year 9999"),
        ("9999-12-31T23:59-14:00", "'9999-12-31T23:59-14:00' lies behind the year 9999"),
    ],
)
def test_what_is_no_deadline_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        read_deadline(text, NOW)


def test_a_wrong_deadline_is_told_with_the_forms_that_it_has():
    flags = ["--input", "/in", "--output", "/out", "--deadline", "tomorrow"]
    with pytest.raises(SettingsError, match=r"--deadline: .*tomorrow.*5h30m.*06:00"):
        LabelSettings.from_everywhere(flags, "label")


def test_settings_become_a_stop_with_what_they_say():
    flags = ["--input", "/in", "--output", "/out", "--deadline", "1h", "--max-gpu-hours", "2"]
    settings = LabelSettings.from_everywhere([*flags, "--grace-seconds", "7"], "label")
    stop = settings.make_stop()
    assert (stop.reason, stop.grace_seconds) == ("", 7)
    stop.spend(7200)
    assert stop.reason == "2 GPU hours are used up"


def test_there_is_no_reason_to_stop_until_there_is_one():
    assert Stop().reason == ""
    later = datetime.now(UTC) + timedelta(hours=1)
    assert Stop(deadline=later).reason == ""
    assert Stop(deadline=NOW.replace(year=2020)).reason.startswith("the deadline has come")
    stop = Stop(max_gpu_hours=1)
    stop.spend(3599)
    assert stop.reason == ""
    stop.spend(1)
    assert "1 GPU hours" in stop.reason


def test_the_first_reason_stays():
    stop = Stop()
    stop.ask("one")
    stop.ask("two")
    assert stop.reason == "one"


def test_sigterm_is_a_reason_to_stop_and_then_ends_processes_as_before():
    stop, before = Stop(), signal.getsignal(signal.SIGTERM)
    with ended_by_sigterm(stop):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.reason == "asked to end (SIGTERM)"
    assert signal.getsignal(signal.SIGTERM) is before


HANGS = """
import os, signal, socket, sys
from workers import stopping

stopping.SPARE_SECONDS = 0.5
here = socket.create_server(("127.0.0.1", 0))
there = socket.create_connection(here.getsockname())
with stopping.ended_by_sigterm(stopping.Stop(grace_seconds=0.5)):
    os.kill(os.getpid(), signal.SIGTERM)
    if sys.argv[1] == "hangs":
        there.recv(1)  # nobody answers
signal.pause() if sys.argv[1] == "hangs" else print("through")
"""


@pytest.mark.parametrize(("way", "code"), [("hangs", 143), ("ends", 0)])
def test_who_was_asked_to_end_and_hangs_is_ended_after_its_time_of_grace(way, code):
    done = subprocess.run(
        [sys.executable, "-c", HANGS, way], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert ("not through 1 s after it was asked to end" in done.stderr) == (way == "hangs")


def test_a_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with ended_by_sigterm(Stop()):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_things_come_as_they_are_until_there_is_a_reason_to_stop():
    assert list(until_stopped(iter(range(5)), Stop())) == [0, 1, 2, 3, 4]


def test_what_goes_wrong_on_their_way_is_heard():
    def things():
        yield 1
        raise LineError("gone")

    heard = until_stopped(things(), Stop())
    assert next(heard) == 1
    with pytest.raises(LineError, match="gone"):
        next(heard)


def test_what_is_under_way_gets_its_grace_and_no_more(monkeypatch):
    monkeypatch.setattr("workers.stopping.LOOK_SECONDS", 0.01)
    released = threading.Event()

    def things():
        yield "before"
        yield "within the grace"
        released.wait(20)
        yield "after it"

    stop = Stop(grace_seconds=0.5)
    heard = []
    for row in until_stopped(things(), stop):
        heard.append(row)
        stop.ask("told to")
    released.set()
    assert heard == ["before", "within the grace"]


def test_where_nothing_is_begun_there_is_no_grace():
    released = threading.Event()

    def things():
        yield "before"
        released.wait(60)

    stop = Stop(grace_seconds=30)
    heard = until_stopped(things(), stop, lambda: False)
    assert next(heard) == "before"
    stop.ask("told to")
    began = time.monotonic()
    assert list(heard) == []
    assert time.monotonic() - began < 15
    released.set()
