"""Questions -> records that `jobs/label.py --input` takes: to ask a model what a table asks.

    {"image": "s3://photos/1.jpg", "instructions": [{"text", "id", "kind", "classes"}]}

One line for an image with its questions. What was labelled then is compared with the table by
`jobs/evaluate.py`, row by row.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from workers.errors import RecordRejected
from workers.exports.lists import MAX_PROBLEMS
from workers.exports.selection import ExportOptions, ExportSummary
from workers.json_stream import Json
from workers.labels.parts import LabelTable
from workers.labels.schema import LabelRow
from workers.records.instructions import MAX_INSTRUCTIONS, list_instructions, read_instruction

_PLACES = ("item_id", "row_index", "image_uri", "image_member", "image_sha256", "status")
_COLUMNS = (*_PLACES, "instruction", "instruction_id", "instruction_kind", "requested_classes")
INSIDE = "questions about images inside an archive or a Parquet file, which a list can't name"
UNREAD = "rows without a picture or a question"


def write_records(file: BinaryIO, table: LabelTable, options: ExportOptions) -> ExportSummary:
    """Writes the file. Memory: the questions of a part, without masks."""
    left_out, images, questions = Counter[str](), set[str](), 0
    for number in range(len(table.parts)):
        for record in _group(table.only([number]).rows(_COLUMNS), left_out):
            images.add(record[0].image_sha256)
            questions += len(record)
            file.write(json.dumps(_write_record(record)).encode("ascii") + b"\n")
    return ExportSummary(len(images), 0, {"questions": questions}, left_out)


def check_records(path: Path) -> list[str]:
    """What is wrong with a file, one sentence each."""
    problems = list[str]()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = json.loads(line)
            try:
                for each in list_instructions(record["instructions"]):
                    read_instruction(each)
            except RecordRejected as error:
                problems.append(f"line {number}: {error}")
            if len(problems) == MAX_PROBLEMS:
                break
    return problems


def _group(rows: Iterator[LabelRow], left_out: Counter[str]) -> Iterator[list[LabelRow]]:
    """Rows about one image, in the order of the table, at most as many as a record may have."""
    groups: dict[tuple[int, str], dict[str, LabelRow]] = {}
    for row in rows:
        if row.image_member is not None:
            left_out[INSIDE] += 1
        elif not (row.image_uri and row.image_sha256 and row.instruction):
            left_out[UNREAD] += 1
        else:
            groups.setdefault((row.row_index, row.image_uri), {})[row.item_id] = row
    for _, group in sorted(groups.items()):
        questions = list(group.values())
        for first in range(0, len(questions), MAX_INSTRUCTIONS):
            yield questions[first : first + MAX_INSTRUCTIONS]


def _write_record(rows: list[LabelRow]) -> Json:
    return {"image": rows[0].image_uri, "instructions": [_write_question(row) for row in rows]}


def _write_question(row: LabelRow) -> Json:
    return {
        "text": row.instruction,
        "id": row.instruction_id,
        "kind": row.instruction_kind,
        **({"classes": list(row.requested_classes)} if row.requested_classes else {}),
    }
