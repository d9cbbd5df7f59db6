"""What was measured, for people and for programs: tables, and where they were made."""

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent.parent
JSON_FILE, MARKDOWN_FILE = "benchmarks.json", "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Table:
    """The outcome of one comparison."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    """what was done, and what a column says"""
    raw: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """every number that the rows were made of; seconds, unless the notes say otherwise"""
    failures: Sequence[str] = ()
    """checks that did not hold"""

    def to_markdown(self) -> str:
        """The table as people read it, in a terminal, too."""
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [_line(self.columns, widths), _line(["-" * width for width in widths], widths)]
        lines += [_line(row, widths) for row in self.rows]
        notes = [f"* {note}" for note in self.notes]
        failed = [f"**FAILED**: {failure}" for failure in self.failures]
        parts = [[f"## {self.title}"], lines, notes, failed]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where and with what a run was made."""

    date: str
    """ISO 8601, UTC"""
    command: str
    commit: str
    """of git; "+" says that tracked files differed from it"""
    device: str
    """the processor, as it calls itself"""
    vectors: str
    """what torch uses of it: processors of one name differ in that"""
    cores: int
    threads: int
    """of torch, when the run began"""
    load: float
    """processes that wanted a core in the minute before the run: times of a busy machine mean
    little"""
    python: str
    torch: str
    transformers: str
    numpy: str


def look_around(arguments: Sequence[str]) -> Surroundings:
    """The surroundings of this run.

    Args:
        arguments: of the command line.
    """
    told = list(arguments)
    if "--output" in told:  # a place on this machine
        at = told.index("--output")
        del told[at : at + 2]
    told = [each for each in told if not each.startswith("--output=")]
    return Surroundings(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=f"python -m tests.benchmarks {shlex.join(told)}".rstrip(),
        commit=_commit(),
        device=_processor(),
        vectors=torch.backends.cpu.get_cpu_capability(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        numpy=numpy.__version__,
    )


def _cores() -> int:
    return os.cpu_count() or 1


def _commit() -> str:
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + "+" * bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def to_markdown(surroundings: Surroundings, tables: Sequence[Table]) -> str:
    """All tables of a run, and where they were made."""
    head = ["# Benchmarks", "", *(f"* {k}: {v}" for k, v in asdict(surroundings).items()), ""]
    return "\n".join([*head, *(table.to_markdown() for table in tables)])


def write_results(folder: Path, surroundings: Surroundings, tables: Sequence[Table]) -> None:
    """Writes a run as JSON, with every number that was measured, and as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {**asdict(surroundings), "tables": [asdict(table) for table in tables]}
    (folder / JSON_FILE).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (folder / MARKDOWN_FILE).write_text(to_markdown(surroundings, tables), encoding="utf-8")


def show(table: Table) -> None:
    """Prints a table."""
    print(table.to_markdown(), flush=True)
