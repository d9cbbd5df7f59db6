"""What the README says about how fast it is, from the results of the benchmarks.

A results file is what `python -m tests.benchmarks PART --output FOLDER` wrote as benchmarks.json.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.timing import significant

RESULTS = Path(__file__).resolve().parent / "benchmarks" / "results"
ANSWERED, LINE = "Questions answered: ", "The whole job: "
MASKS = "Low logits to run lengths, box, area and score"
OPERATIONS = "Operations counted: PixelLM-7B"
ARITHMETIC = "Operations counted, official way and ours: "
MEMORY = "Memory of the driver"
ELSEWHERE = ("masks-without-avx512",)
"""Results of another kind of processor, of which the README tells in words."""
OTHERS = ("official", "cached", "padded")
"""Contestants, in the order of the columns."""

Rows = Sequence[Mapping[str, str]]
"""Of a table: column -> cell"""


def speeds() -> str:
    """Tables of medians, with least and most in brackets."""
    tables = _tables()
    lines = [
        "| model | instructions per image | official way : ours | cached : ours |"
        " `generate` : ours |",
        "|---|---|---|---|---|",
        *(line for title, rows in tables for line in _answered(title, rows)),
        "",
        *(
            line
            for title, rows in tables
            for say in (_masks, _job, _memory, _operations, _arithmetic)
            for line in say(title, rows)
        ),
        *_origins(),
    ]
    return "\n".join(lines) + "\n"


def _results() -> list[Path]:
    """Files of results that need no GPU."""
    return [path for path in sorted(RESULTS.glob("*.json")) if not path.stem.startswith("gpu-")]


def _origins() -> Iterator[str]:
    """When each file was made and of which commit, by processors."""
    found = defaultdict[str, list[str]](list)
    for path in _results():
        made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        device = f"{made['device']}{', with AVX-512' * ('AVX512' in made.get('vectors', ''))}"
        found[device].append(f"{path.stem} {made['date'][:10]} at {made['commit'][:7]}")
    for device, files in found.items():
        yield f"* Measured on an {device}, each file by itself: {', '.join(files)}."


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
        same, all_ = (
            ", ".join(f"{row['masks']} {row[f'plain : {which}']}" for row in rows)
            for which in ("ours", "all")
        )
        yield (
            f"* Masks to run lengths, plain path : ours, one thread: {same}. With what labelling"
            f" needs besides (components, borders, overlaps), which plain does not do: {all_}."
        )


def _job(title: str, rows: Rows) -> Iterator[str]:
    if title.startswith(LINE):
        (job,) = (row for row in rows if row["contestant"] == "whole job")
        shares = ", ".join(f"{job[each]} {each}" for each in job if each.startswith("of the "))
        yield f"* Records per second of the whole job, {title.removeprefix(LINE)}: {shares}."


def _memory(title: str, rows: Rows) -> Iterator[str]:
    if title == MEMORY:
        peaks = ", ".join(f"{row['most memory, MiB']} MiB at {row['shards']}" for row in rows)
        yield f"* Most memory of the driver, by the number of shards: {peaks}."


def _operations(title: str, rows: Rows) -> Iterator[str]:
    if title == OPERATIONS:
        ratios = [row["with SAM : PixelLM"] for row in rows if row["design"] == "with SAM"]
        counts = [row["instructions per image"] for row in rows if row["design"] == "with SAM"]
        said = ", ".join(
            f"{ratio} with {count}" for ratio, count in zip(ratios, counts, strict=True)
        )
        yield (
            "* Operations of a question, counted at the sizes of PixelLM-7B, a design with SAM :"
            f" PixelLM, by instructions per image: {said}. The paper says up to 2 (as told in a"
            " summary of it; its own table was not at hand)."
        )


def _arithmetic(title: str, rows: Rows) -> Iterator[str]:
    if title.startswith(ARITHMETIC):
        said = ", ".join(
            f"{row['official : ours']} with {row['instructions per image']}"
            f" ({row['official : image alone']} if all but encoding the image once cost nothing)"
            for row in rows
        )
        yield (
            "* Operations of a question, counted, official way : ours,"
            f" {title.removeprefix(ARITHMETIC)}, by instructions per image: {said}."
        )


def _tables() -> list[tuple[str, Rows]]:
    """Of what was measured again by itself, the newest."""
    found: dict[str, tuple[str, Rows]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for table in results["tables"] if path.stem not in ELSEWHERE else ():
            title, columns = table["title"], table["columns"]
            rows = [dict(zip(columns, row, strict=True)) for row in table["rows"]]
            if title not in found or found[title][0] < results["date"]:
                found[title] = results["date"], rows
    return [(title, rows) for title, (_, rows) in found.items()]


# ---- on a GPU ----

GPU_RUNS = ("gpu-main", "gpu-few", "gpu-before")
"""Results by the engine of today, and by the one that recorded no questions that enter."""
GPU_CASES = re.compile(r"GPU: (\w+) answers, instructions per image: (\d+) \(")

MEAN_STEP = "ms a step, mean"
GPU_COLUMNS = (
    "rows",
    "under way",
    "images per s",
    "images per s at the ceilings",
    "questions per s",
    MEAN_STEP,
    "FLOP/s, % of ceiling",
    "bytes/s in steps, % of ceiling",
    "peak GB",
)


def gpu_speeds() -> str:
    """A table of each run on a GPU, with what that device can do."""
    blocks = (_gpu_run(RESULTS / f"{name}.json") for name in GPU_RUNS)
    return "\n\n".join(blocks) + "\n"


def _gpu_run(path: Path) -> str:
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    tables = {table["title"]: table for table in results["tables"]}
    found = dict(tables["GPU: what the device can do"]["rows"])
    products, copies = (
        next(value.split(" ")[0] for name, value in found.items() if name.startswith(what))
        for what in ("large product", "large copy")
    )
    lines = [
        f"[{path.stem}.md](tests/benchmarks/results/{path.stem}.md), {results['date'][:10]},"
        f" {found['device']}, torch {results['torch']}; large products run at {products} TFLOP/s"
        f" there, large copies at {copies} GB/s:",
        "",
        "| answers | instructions per image | under way at most | on average | images/s |"
        " at the ceilings | questions/s | mean ms a step | FLOP/s, % | bytes/s, % | peak GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for title, table in tables.items():
        if match := GPU_CASES.match(title):
            for cells in table["rows"]:
                row = dict(zip(table["columns"], cells, strict=True))
                row[MEAN_STEP] = _mean_step(table["raw"], f"{match[1]}/{match[2]}/{row['rows']}")
                shown = [row[each] for each in GPU_COLUMNS]
                lines.append(f"| {' | '.join([match[1], match[2], *shown])} |")
    return "\n".join(lines)


def _mean_step(raw: Mapping[str, Sequence[float]], case: str) -> str:
    """A median leaves out the steps in which questions enter, a case of few steps has none."""
    case = case.replace(", replay", "/replay")
    return significant(1000 * sum(raw[f"{case}: seconds"]) / sum(raw[f"{case}: steps"]))
