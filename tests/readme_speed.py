"""What the README says about how fast it is, from the results of the benchmarks.

A results file is what `python -m tests.benchmarks PART --output FOLDER` wrote as benchmarks.json.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "benchmarks" / "results"
ANSWERED, LINE = "Questions answered: ", "The whole job: "
MASKS = "Low logits to run lengths, box, area and score"
MEMORY = "Memory of the driver"
OTHERS = ("official", "cached", "padded")
"""Contestants, in the order of the columns."""

Rows = Sequence[Mapping[str, str]]
"""Of a table: column -> cell"""


def speeds() -> str:
    """Tables of medians, with least and most in brackets."""
    tables = list(_tables())
    lines = [
        "| model | instructions per image | official way : ours | cached : ours |"
        " `generate` : ours |",
        "|---|---|---|---|---|",
        *(line for title, rows in tables for line in _answered(title, rows)),
        "",
        *(
            line
            for title, rows in tables
            for say in (_masks, _job, _memory)
            for line in say(title, rows)
        ),
    ]
    return "\n".join(lines) + "\n"


def _answered(title: str, rows: Rows) -> Iterator[str]:
    if title.startswith(ANSWERED):
        for count in dict.fromkeys(row["instructions per image"] for row in rows):
            own = {
                row["contestant"]: row["times ours"]
                for row in rows
                if row["instructions per image"] == count
            }
            cells = [title.removeprefix(ANSWERED), count, *(own[name] for name in OTHERS)]
            yield f"| {' | '.join(cells)} |"


def _masks(title: str, rows: Rows) -> Iterator[str]:
    if title == MASKS:
        ratios = ", ".join(f"{row['masks']} {row['plain : ours']}" for row in rows)
        yield f"* Masks to run lengths, plain path : ours, one thread: {ratios}."


def _job(title: str, rows: Rows) -> Iterator[str]:
    if title.startswith(LINE):
        (job,) = (row for row in rows if row["contestant"] == "whole job")
        shares = ", ".join(f"{job[each]} {each}" for each in job if each.startswith("of the "))
        yield f"* Records per second of the whole job, {title.removeprefix(LINE)}: {shares}."


def _memory(title: str, rows: Rows) -> Iterator[str]:
    if title == MEMORY:
        peaks = ", ".join(f"{row['most memory, MiB']} MiB at {row['shards']}" for row in rows)
        yield f"* Most memory of the driver, by the number of shards: {peaks}."


def _tables() -> Iterator[tuple[str, Rows]]:
    for path in sorted(RESULTS.glob("*.json")):
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for table in results["tables"]:
            columns = table["columns"]
            yield table["title"], [dict(zip(columns, row, strict=True)) for row in table["rows"]]
