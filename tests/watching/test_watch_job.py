"""The watcher as a process: real Ray, a real S3 server, a server that speaks SQS, and kill -9."""

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.here import label_runs_here
from tests.markers import count_markers
from tests.photos import load_photos
from tests.processes import SECONDS, descendants, end, start, wait_for
from tests.readme_tree import ROOT
from tests.same import assert_same_rows
from tests.watching.messages import of_s3
from workers.hardware import settle_hardware
from workers.labels.manifests import current_commits
from workers.labels.parts import read_rows
from workers.labels.schema import LabelRow
from workers.progress import Progress
from workers.runs import plan_run
from workers.settings import LabelSettings
from workers.stopping import Stop
from workers.storage.stores import open_store

pytestmark = [pytest.mark.slow, pytest.mark.ray]

PHOTOS = 24
LEASE = ("--lease-seconds", "10")


@dataclass
class Standing:
    """A standing job: watchers of one prefix in a bucket."""

    bucket: str
    model: Path
    cache: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def output(self) -> str:
        return f"s3://{self.bucket}/labels"

    def flags(self, source: str, output: str) -> list[str]:
        return [
            *("--input", source, "--output", output, "--instruction", "the dog"),
            *("--model", str(self.model), "--model-cache", str(self.cache)),
            *("--reading.records-per-shard", "4", "--decoding.max-new-tokens", "60"),
            *("--replica.batch-questions", "1", "--replica.num-cpus", "1"),
            *("--replica.shards-in-flight", "1", "--num-gpus-per-replica", "0"),
        ]

    @contextmanager
    def watcher(self, *flags: str) -> Iterator[subprocess.Popen[str]]:
        given = [*self.flags(f"s3://{self.bucket}/in", self.output), *LEASE, *flags]
        process = start(["jobs/watch.py", *given], self.env)
        try:
            yield process
        finally:
            if process.poll() is None:
                started = descendants(process.pid)
                process.kill()
                process.wait()
                end(started)
            if process.stdout:
                process.stdout.close()

    def drop(self, name: str, numbers: range) -> None:
        store, photos = open_store(self.output), load_photos()
        for number in numbers:
            data = photos[number % len(photos)].data
            store.put(f"s3://{self.bucket}/in/{name}/{number:02}.jpg", data)

    def markers(self, drop: str) -> int:
        return count_markers(f"{self.output}/{drop}")

    def status(self, drop: str) -> dict[str, object]:
        uri = f"{self.output}/{drop}/_status.json"
        found = [info for info in open_store(uri).list(f"{self.output}/{drop}") if info.uri == uri]
        return json.loads(open_store(uri).get(uri)) if found else {}

    def is_done(self, *drops: str) -> bool:
        return all(self.status(drop).get("state") == "done" for drop in drops)

    def rows(self, output: str) -> list[LabelRow]:
        store = open_store(output)
        rows = read_rows(store, output, current_commits(store, output))
        return sorted(rows, key=lambda row: (row.item_id, row.image_uri))

    def undisturbed(self, drop: str) -> list[LabelRow]:
        """The rows of one labelling run over the drop, in this process."""
        output = f"s3://{self.bucket}/alone/{drop}"
        flags = self.flags(f"s3://{self.bucket}/in/{drop}", output)
        settings = settle_hardware(LabelSettings.from_everywhere(flags, "label"))
        run = plan_run(settings, lambda _: None)
        list(label_runs_here([run], Progress(io.StringIO()), Stop()))
        return self.rows(output)


@pytest.fixture
def standing(s3_server, s3_env, bucket, tiny_model, tmp_path, monkeypatch) -> Standing:
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    env = {**s3_env, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env.pop("RAY_ADDRESS", None)
    return Standing(bucket, tiny_model, tmp_path / "cache", env)


def check_like(standing: Standing, *drops: str) -> None:
    for drop in drops:
        assert_same_rows(standing.rows(f"{standing.output}/{drop}"), standing.undisturbed(drop))


def test_of_two_watchers_that_race_one_is_killed_and_every_drop_is_labelled_once(standing):
    standing.drop("friday", range(PHOTOS))
    standing.drop("monday", range(4))
    with standing.watcher("--settle-seconds", "0", "--drops-at-once", "1") as first:
        wait_for(lambda: standing.markers("friday") >= 2, first)
        started = descendants(first.pid)
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        end(started)
    assert standing.status("friday")["state"] == "labelling"
    with (
        standing.watcher("--settle-seconds", "0", "--once") as second,
        standing.watcher("--settle-seconds", "0", "--once") as third,
    ):
        ends = [each.communicate(timeout=SECONDS)[0] for each in (second, third)]
        assert [second.returncode, third.returncode] == [0, 0], ends
    assert standing.is_done("friday", "monday"), ends
    check_like(standing, "friday", "monday")


def test_events_are_followed_and_sigterm_ends_a_watcher_in_time(standing, sqs):
    more = {"AWS_ENDPOINT_URL_S3": standing.env["AWS_ENDPOINT_URL"]}
    standing.env.update(more)
    sqs.send("nonsense")
    events = ("--queue-url", sqs.url, "--sweep-seconds", "3600", "--grace-seconds", "20")
    with standing.watcher(*events, "--settle-seconds", "1") as watcher:
        time.sleep(5)  # its first sweep finds nothing
        standing.drop("friday", range(4))
        keys = [f"in/friday/{number:02}.jpg" for number in range(4)]
        late_and_twice = [*reversed(keys), keys[2]]
        sqs.send(*(of_s3(standing.bucket, key) for key in late_and_twice))
        wait_for(lambda: standing.is_done("friday"), watcher)
        wait_for(lambda: sum(sqs.count()) == 1, watcher)  # but for the one that says nothing
        standing.drop("saturday", range(PHOTOS))
        sqs.send(of_s3(standing.bucket, "in/saturday/00.jpg"))
        wait_for(lambda: standing.markers("saturday") >= 1, watcher)
        watcher.send_signal(signal.SIGTERM)
        told, _ = watcher.communicate(timeout=60)
        assert watcher.returncode == 0, told
        assert "asked to end (SIGTERM)" in told
        assert "Traceback" not in told
    assert standing.status("saturday")["state"] == "unfinished"
    assert standing.markers("saturday") < PHOTOS / 4
    with standing.watcher("--settle-seconds", "0", "--once") as last:
        told, _ = last.communicate(timeout=SECONDS)
        assert last.returncode == 0, told
    check_like(standing, "friday", "saturday")
