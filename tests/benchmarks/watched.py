"""A labelling job in a process of its own, and what is seen of it from inside.

    python -m tests.benchmarks.watched watched --input photos --output labels ...

The job is that of `jobs/label.py`, with real Ray; only its replicas are of a class that also takes
notes (`tests.benchmarks.labellers`).
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from jobs.label import main as label
from tests.benchmarks.notes import DRIVER, NOTES, DriverNotes, ReplicaNotes, write_notes
from tests.readme_tree import ROOT
from workers import pool
from workers.labels.commits import MARKERS
from workers.labels.manifests import manifests
from workers.labels.rows import LABELLED
from workers.storage.stores import Anywhere

if TYPE_CHECKING:  # a driver doesn't load the model's code
    from workers.replica import ShardLabeller


# ---- the job ----


def main(arguments: Sequence[str]) -> int:
    """Runs the job; its flags come after the name of a class of replicas."""
    name, *flags = arguments
    output = Path(flags[flags.index("--output") + 1])
    vars(pool)["ReplicaActor"] = actor_of(name)  # it isn't told which one to take
    code = label(flags)
    write_notes(output / NOTES / DRIVER, asdict(DriverNotes(code, peak_memory())))
    return code


def actor_of(name: str) -> type[pool.ReplicaActor]:
    """An actor whose labeller is one of `tests.benchmarks.labellers`."""

    class Actor(pool.ReplicaActor):  # local, so that it travels whole
        def make(self, *arguments: Any) -> "ShardLabeller":
            from tests.benchmarks.labellers import LABELLERS

            return LABELLERS[name](*arguments)

    return Actor


def peak_memory() -> int:
    """The most memory that this process has had, in bytes.

    `ru_maxrss` alone would also know what the parent had when it made this process.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(s.split()[1]) for s in status.splitlines() if s.startswith("VmHWM")) * 1024


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
