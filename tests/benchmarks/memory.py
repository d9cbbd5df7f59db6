"""The part `memory`: what the driver of a job needs, with few shards and with many."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.options import Options
from tests.benchmarks.report import Table
from tests.benchmarks.timing import say, significant
from tests.benchmarks.watched import JobNotes

FEW, MANY = 1_000, 100_000
TOY_FEW, TOY_MANY = 20, 200
MIB = 2**20
COLUMNS = ("shards", "most memory, MiB", "times the first", "shards per s", "s in all")
NOTES = (
    "The process that runs jobs/label.py, a fresh one for each row: the most memory that it had at"
    " any time (resident), from the plan to the manifest. Replicas and Ray's own processes are"
    " others. Nothing was committed before; what a run goes on with takes memory, too.",
    "Real Ray and two replicas. The input is one JSONL file in shards of one record each. The"
    " replicas are done with a shard at once: they load no model, read no record, and write a"
    " commit marker without a part; so all that is left is what a shard costs the driver and Ray.",
    "shards per s: from the first commit to the last.",
)


@dataclass(frozen=True, slots=True)
class Driven:
    """A run that has ended."""

    shards: int
    peak: int
    """bytes"""
    pace: float
    """shards per second"""
    seconds: float
    """in all"""


def run(options: Options) -> Iterator[Table]:
    """One table."""
    few, many = (TOY_FEW, TOY_MANY) if options.toy else (FEW, options.shards or MANY)
    runs = list[Driven]()
    for shards in (few, many):
        runs.append(drive(shards))
        say(f"{shards:,} shards: {runs[-1].peak / MIB:.0f} MiB, {runs[-1].seconds:.0f} s")
    yield make_table(runs)


def drive(shards: int) -> Driven:
    """A job of so many shards.

    Raises:
        RuntimeError: it failed, or left shards.
    """
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        source, output = Path(name) / "list.jsonl", Path(name) / "out"
        with source.open("w", encoding="utf-8") as file:
            for at in range(shards):
                file.write(json.dumps({"image": f"{at}.png", "instructions": ["a thing"]}) + "\n")
        job = JobNotes.of("prompt", output, _flags(source))
        if len(job.commits) != shards or job.answered != shards:
            raise RuntimeError(f"{len(job.commits)} of {shards} shards were committed")
        span = job.commits[-1] - job.commits[0]
        pace = shards / span if span > 0 else 0.0
        return Driven(shards, job.driver.peak_bytes, pace, job.ended - job.started)


def _flags(source: Path) -> list[str]:
    return [
        *("--input", str(source), "--reading.records-per-shard", "1"),
        *("--min-replicas", "2", "--max-replicas", "2"),
        *("--replica.num-cpus", "1", "--num-gpus-per-replica", "0"),
    ]


def make_table(runs: Sequence[Driven]) -> Table:
    """What came out."""
    rows = [
        [
            f"{each.shards:,}",
            f"{each.peak / MIB:,.0f}",
            f"{each.peak / runs[0].peak:.2f}",
            significant(each.pace),
            f"{each.seconds:,.0f}",
        ]
        for each in runs
    ]
    raw: dict[str, Sequence[float]] = {
        "shards": [each.shards for each in runs],
        "bytes": [each.peak for each in runs],
        "shards per s": [each.pace for each in runs],
        "seconds": [each.seconds for each in runs],
    }
    return Table("Memory of the driver", COLUMNS, rows, NOTES, raw)
