"""Questions and answers -> a flat list of referring expressions, one a question.

    {"image", "height", "width", "expression", "mask" or "masks", "answer"}

`jobs/convert.py --from referring` reads it again. An answer that was composed is left away.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from workers.errors import ExportError
from workers.exports.lists import check_entries, write_list
from workers.exports.questions import ImageNames, Question, read_entries, read_names
from workers.exports.selection import REGIONS, ExportOptions, ExportSummary
from workers.json_stream import Json
from workers.labels.parts import LabelTable
from workers.labels.rle import measure_rle
from workers.labels.schema import TargetRow

_KIND = "referring"  # of questions that say what their targets are called


def write_referring(file: BinaryIO, table: LabelTable, options: ExportOptions) -> ExportSummary:
    """Writes the file. Memory: a part of the table, and 500 bytes for each image."""
    left_out, counts, images = Counter[str](), Counter[str](), set[str]()
    names = read_names(table)

    def write() -> Iterator[Json]:
        for entry in read_entries(table, left_out):
            for question in entry:
                images.add(names.of(question))
                counts["expressions"] += 1
                counts["masks"] += len(question.targets)
                left_out[REGIONS] += len(question.ignored)
                yield _write_entry(question, names)

    write_list(file, write())
    others = {"expressions": counts["expressions"]}
    return ExportSummary(len(images), counts["masks"], others, left_out)


def check_referring(path: Path) -> list[str]:
    """What is wrong with a file, one sentence each."""
    return check_entries(path, lambda _, entry: _check_entry(entry))


def _write_entry(question: Question, names: ImageNames) -> Json:
    row, origin = question.row, question.origin
    masks = [_write_mask(target) for target in question.targets]
    return {
        **({} if row.source_id is None else {"id": row.source_id}),
        "image": names.of(question),
        "height": row.height,
        "width": row.width,
        "expression": origin.refs[0].text if len(origin.refs) == 1 else question.text,
        **({"mask": masks[0]} if len(masks) == 1 else {"masks": masks}),
        **({} if _is_composed(question) else {"answer": origin.answer or question.answer}),
    }


def _is_composed(question: Question) -> bool:
    """Whether an import would make the answer up in the same way."""
    origin = question.origin
    return question.row.instruction_kind == _KIND and (origin.composed or bool(origin.refs))


def _write_mask(target: TargetRow) -> Json:
    return {"size": list(target.rle_size), "counts": target.rle_counts}


def _check_entry(entry: Mapping[str, Any]) -> Iterator[str]:
    if not entry.get("image") or not entry.get("expression"):
        yield "it has no image, or no expression"
    for mask in entry.get("masks", [entry.get("mask")]):
        try:
            if mask["size"] != [entry["height"], entry["width"]]:
                yield f"a mask of {mask['size']!r} for a picture of {entry['height']} rows"
            measure_rle(tuple(mask["size"]), mask["counts"])
        except (KeyError, TypeError, ValueError, ExportError) as error:
            yield f"{type(error).__name__}: {error}"
