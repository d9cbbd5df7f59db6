"""A labelling job in a process of its own, and what is seen of it from inside.

    python -m tests.benchmarks.watched watched --input photos --output labels ...

The job is that of `jobs/label.py`, with real Ray; only its replicas are of a class that also takes
notes. They lie in the output, where a folder whose name begins with "_" is in nobody's way.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from jobs.label import main as label
from tests.benchmarks.clocked import QUESTION_SECONDS, Clocked, ReplicaNotes, Sleeping
from tests.benchmarks.report import ROOT
from workers import pool
from workers.asking import Asking
from workers.errands import Assignment, Errand
from workers.labels.commits import MARKERS, Commit, marker_uri, now, part_name
from workers.labels.manifests import manifests
from workers.labels.rows import LABELLED
from workers.labels.sums import Sums
from workers.model_thread import ModelThread
from workers.replica import ShardLabeller
from workers.storage.stores import Anywhere
from workers.summaries import ShardSummary

NOTES, DRIVER = "_watched", "driver.json"
"""A folder of the output, and in it the notes of the driver; the others are of replicas."""


# ---- replicas ----


class Watched(ShardLabeller):
    """A replica as any other, which takes notes."""

    def setup(self, assignments: Sequence[Assignment]) -> None:
        """Loads the model, and puts a clock around it."""
        super().setup(assignments)
        ((run_id, bench),) = self._benches.items()
        self._clock = Clocked(self.choose(bench.model._engine))
        self._benches = {run_id: replace(bench, model=ModelThread(self._clock))}
        self._notes = Path(assignments[0].settings.output) / NOTES / f"{os.getpid()}.json"
        self._ready, self._cpu = time.time(), time.process_time()

    def choose(self, engine: Asking) -> Asking:
        """The model that is asked."""
        return engine

    async def process(self, errand: Errand) -> ShardSummary:
        """Labels a shard, and notes how it has been so far."""
        summary = await super().process(errand)
        notes = self._clock.notes(self._ready, time.process_time() - self._cpu)
        _write(self._notes, asdict(notes))
        return summary


class Sleeper(Watched):
    """A replica that does everything as ever, but for its model, which sleeps."""

    def choose(self, engine: Asking) -> Asking:
        """The model that is asked."""
        return Sleeping(QUESTION_SECONDS)


class Prompt(ShardLabeller):
    """A replica without a model, which is done with a shard at once.

    It writes a commit marker, so that the driver finds everything committed, but no part; and it
    doesn't wait for the disk.
    """

    def setup(self, assignments: Sequence[Assignment]) -> None:
        """Loads nothing."""
        (self._assignment,) = assignments

    async def process(self, errand: Errand) -> ShardSummary:
        """Claims that every record has an answer without masks."""
        run_id, shard = errand.run_id, errand.shard
        sums = Sums(rows=shard.count, counts={"empty": shard.count})
        commit = Commit(
            run_id=run_id,
            shard_id=shard.shard_id,
            part=part_name(run_id, shard.shard_id),
            sha256="",
            bytes=0,
            fingerprint=self._assignment.identity.label_fingerprint,
            source=shard.source,
            source_etag=shard.etag,
            created_at=now(),
            **asdict(sums),
        )
        marker = Path(marker_uri(self._assignment.settings.output, run_id, shard.shard_id))
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_bytes(commit.to_json())
        return ShardSummary(*errand.key, records=shard.count, **asdict(sums))


LABELLERS: Mapping[str, type[ShardLabeller]] = {
    "watched": Watched,
    "sleeping": Sleeper,
    "prompt": Prompt,
}


# ---- the job ----


@dataclass(frozen=True, slots=True)
class DriverNotes:
    """What the driver has seen."""

    code: int
    """that the job ended with"""
    peak_bytes: int
    """most memory that its process had at any time (resident)"""


def main(arguments: Sequence[str]) -> int:
    """Runs the job; its flags come after the name of a class of replicas."""
    name, *flags = arguments
    output = Path(flags[flags.index("--output") + 1])
    vars(pool)["ReplicaActor"] = LABELLERS[name]  # by name: it isn't told which one to take
    code = label(flags)
    _write(output / NOTES / DRIVER, asdict(DriverNotes(code, peak_memory())))
    return code


def peak_memory() -> int:
    """The most memory that this process has had, in bytes.

    `ru_maxrss` alone would also know what the parent had when it made this process.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(s.split()[1]) for s in status.splitlines() if s.startswith("VmHWM")) * 1024


def _write(path: Path, values: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(values), encoding="utf-8")
    aside.replace(path)


# ---- from outside ----


@dataclass(frozen=True, slots=True)
class JobNotes:
    """A job that has ended, as it was seen."""

    started: float
    """its process; in seconds since 1970, as all moments here"""
    ended: float
    replicas: Sequence[ReplicaNotes]
    commits: Sequence[float]
    """when each shard was committed, in order"""
    answered: int
    """rows of the label table with an answer"""
    targets: int
    """masks in it"""
    driver: DriverNotes

    @classmethod
    def of(cls, labeller: str, output: Path, flags: Sequence[str]) -> Self:
        """Runs a job into an output that isn't there yet.

        Raises:
            RuntimeError: it failed.
        """
        command = [sys.executable, "-m", "tests.benchmarks.watched", labeller]
        started = time.time()
        done = subprocess.run(
            [*command, "--output", str(output), *flags],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        ended = time.time()
        if done.returncode:
            raise RuntimeError(f"the job ended with {done.returncode}:\n{done.stdout}")
        notes = {path.name: _read(path) for path in sorted((output / NOTES).glob("*.json"))}
        driver = DriverNotes(**notes.pop(DRIVER))
        replicas = [ReplicaNotes(**values) for values in notes.values()]
        markers = (output / MARKERS).rglob("*.json")
        commits = sorted(path.stat().st_mtime for path in markers)
        (made,) = manifests(Anywhere(), str(output))
        answered = sum(made.counts.get(status, 0) for status in LABELLED)
        return cls(started, ended, replicas, commits, answered, made.targets, driver)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
