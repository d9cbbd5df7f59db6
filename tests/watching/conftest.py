"""A watcher of a local folder, with the tiny model and without Ray."""

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.clock import Clock
from tests.here import label_runs_here
from tests.photos import load_photos
from tests.watching.sqs import Sqs
from workers.hardware import settle_hardware
from workers.labels.manifests import current_commits
from workers.labels.parts import read_rows
from workers.labels.schema import LabelRow
from workers.progress import Progress
from workers.stopping import Stop
from workers.storage.stores import Anywhere
from workers.watching.settings import WatchSettings
from workers.watching.watcher import Watcher

ASK_NOTHING = "--ask-nothing"
"""In the place of a question that is asked of all."""


class Place:
    """A watched folder, its output, and watchers of it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.input, self.output = folder / "in", folder / "out"
        self.input.mkdir()
        self.told = io.StringIO()
        self.stop = Stop()
        self._flags = ["--input", str(self.input), "--output", str(self.output)]
        self._flags += ["--model", str(model), "--model-cache", str(folder / "cache")]
        self._flags += ["--num-gpus-per-replica", "0", "--decoding.max-new-tokens", "4"]
        self._flags += ["--reading.records-per-shard", "2"]

    def drop(self, name: str, *numbers: int) -> Path:
        """Puts photos into a drop, or beside all drops."""
        folder = self.input / name
        folder.mkdir(exist_ok=True)
        for number in numbers:
            (folder / f"{number}.jpg").write_bytes(load_photos()[number].data)
        return folder

    def settings(self, *flags: str) -> WatchSettings:
        given = [*self._flags, *(flag for flag in flags if flag != ASK_NOTHING)]
        if "--instruction" not in flags and ASK_NOTHING not in flags:
            given += ["--instruction", "the dog"]
        if "--settle-seconds" not in flags:
            given += ["--settle-seconds", "0"]
        return settle_hardware(WatchSettings.from_everywhere(given, "watch"))

    def watcher(
        self, *flags: str, queue=None, label=label_runs_here, clock=time.monotonic
    ) -> Watcher:
        progress = Progress(self.told, name="watch")
        settings = self.settings(*flags)
        return Watcher(Anywhere(), settings, progress, self.stop, queue, label, clock)

    def watch_once(self, *flags: str, **more: Any) -> Watcher:
        watcher = self.watcher("--once", *flags, **more)
        watcher.watch()
        return watcher

    def status(self, drop: str) -> dict[str, Any]:
        return json.loads((self.output / drop / "_status.json").read_text())

    def rows(self, drop: str) -> list[LabelRow]:
        store, output = Anywhere(), str(self.output / drop)
        return list(read_rows(store, output, current_commits(store, output)))

    def images(self, drop: str) -> list[str]:
        return sorted(row.image_uri.rpartition("/")[2] for row in self.rows(drop))


@pytest.fixture
def place(tmp_path, tiny_model) -> Place:
    return Place(tmp_path, tiny_model)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def sqs_server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def sqs(sqs_server, monkeypatch):
    import requests

    requests.post(f"{sqs_server}/moto-api/reset", timeout=10)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, os.environ.get(name, "x"))
    return Sqs(sqs_server)
