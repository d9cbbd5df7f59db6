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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from jobs.label import main as label
from pixellm.answers import Answer
from pixellm.engine.engine import Job
from pixellm.engine.rows import Picture, Row, Sample
from tests.benchmarks.report import ROOT
from workers import pool
from workers.labels.commits import MARKERS, Commit, marker_uri, now, part_name
from workers.labels.manifests import manifests
from workers.labels.rows import LABELLED
from workers.labels.sums import Sums
from workers.model_thread import Asking, ModelThread
from workers.replica import Assignment, ShardLabeller
from workers.shards.plan import Shard
from workers.storage.stores import Anywhere
from workers.summaries import ShardSummary

T = TypeVar("T")

NOTES, DRIVER = "_watched", "driver.json"
"""A folder of the output, and in it the notes of the driver; the others are of replicas."""
QUESTION_SECONDS = 0.005
"""That a sleeping model takes for a question."""


# ---- models ----


class Sleeping:
    """A model that sleeps over a question, and then says that nothing matches.

    Args:
        seconds: of sleep for each question.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._line: list[tuple[Job, Row]] = []

    @property
    def busy(self) -> bool:
        """Whether a question waits for its answer."""
        return bool(self._line)

    @property
    def at_once(self) -> float:
        """One."""
        return 1.0

    def add(self, sample: Sample) -> Job:
        """Puts all questions of a sample at the end of the line."""
        job = Job(sample, tuple(Row(Picture(), [], 1, at) for at in range(len(sample.questions))))
        self._line += [(job, row) for row in job.rows]
        return job

    def step(self) -> list[Job]:
        """Answers one question."""
        (job, row), *self._line = self._line
        time.sleep(self.seconds)
        row.answer = Answer("There is no such object.", (), (), malformed=False, truncated=False)
        return [job] if job.done else []

    def abandon(self) -> None:
        """Forgets all that waits."""
        self._line.clear()


class Clocked:
    """A model, and how long its thread has been with it."""

    def __init__(self, engine: Asking) -> None:
        self._engine = engine
        self._seconds = self._cpu = 0.0
        self._questions = 0
        self._first = self._last = 0.0

    @property
    def busy(self) -> bool:
        """As the model's."""
        return self._engine.busy

    @property
    def at_once(self) -> float:
        """As the model's."""
        return self._engine.at_once

    def add(self, sample: Sample) -> Job:
        """As the model's."""
        self._questions += len(sample.questions)
        self._first = self._first or time.time()
        return self._clock(lambda: self._engine.add(sample))

    def step(self) -> list[Job]:
        """As the model's."""
        return self._clock(self._engine.step)

    def abandon(self) -> None:
        """As the model's."""
        self._engine.abandon()

    def notes(self, ready: float, cpu: float) -> "ReplicaNotes":
        """What is known by now.

        Args:
            ready: when the model could be asked, in seconds since 1970.
            cpu: processor seconds of the whole process since then.
        """
        times = (self._first, self._last, self._seconds, self._cpu)
        return ReplicaNotes(ready, self._questions, *times, cpu)

    def _clock(self, work: Callable[[], T]) -> T:
        start, cpu = time.perf_counter(), time.thread_time()
        try:
            return work()
        finally:
            self._seconds += time.perf_counter() - start
            self._cpu += time.thread_time() - cpu
            self._last = time.time()


@dataclass(frozen=True, slots=True)
class ReplicaNotes:
    """How the process of a model has spent its time so far; moments are seconds since 1970."""

    ready: float
    """when the model could be asked"""
    questions: int
    first: float
    """when the first one came"""
    last: float
    """when the last answer was there"""
    model_seconds: float
    """that its thread has spent in the model"""
    model_cpu: float
    """of these, on a processor"""
    all_cpu: float
    """of the whole process since it was ready"""


# ---- replicas ----


class Watched(ShardLabeller):
    """A replica as any other, which takes notes."""

    def setup(self, assignment: Assignment) -> None:
        """Loads the model, and puts a clock around it."""
        super().setup(assignment)
        assert self._bench is not None, "it is set up"
        self._clock = Clocked(self.choose(self._bench.model._engine))
        self._bench = replace(self._bench, model=ModelThread(self._clock))
        self._notes = Path(assignment.settings.output) / NOTES / f"{os.getpid()}.json"
        self._ready, self._cpu = time.time(), time.process_time()

    def choose(self, engine: Asking) -> Asking:
        """The model that is asked."""
        return engine

    async def process(self, shard: Shard) -> ShardSummary:
        """Labels a shard, and notes how it has been so far."""
        summary = await super().process(shard)
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

    def setup(self, assignment: Assignment) -> None:
        """Loads nothing."""
        self._assignment = assignment

    async def process(self, shard: Shard) -> ShardSummary:
        """Claims that every record has an answer without masks."""
        run_id = self._assignment.run_id
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
        return ShardSummary(shard_id=shard.shard_id, records=shard.count, **asdict(sums))


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
    vars(pool)["ShardLabeller"] = LABELLERS[name]  # by name: it isn't told which one to take
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
