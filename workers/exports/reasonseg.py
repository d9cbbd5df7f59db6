"""Questions and answers -> the JSON files of ReasonSeg, in a ZIP to be unpacked beside the images.

A file of ReasonSeg has several questions about the same pixels: those of all targets together. Of
an image whose questions mean other pixels, the first ones go out, and the others are counted.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from posixpath import normpath, splitext
from typing import BinaryIO

import numpy as np

from pixellm.run_lengths import RunMask
from workers.exports.questions import Question, read_entries, read_names
from workers.exports.selection import ExportOptions, ExportSummary
from workers.exports.staircases import trace_staircases
from workers.labels.parts import LabelTable
from workers.labels.rle import read_runs
from workers.labels.schema import TargetRow

TARGET, IGNORED = "target", "ignore"
"""Labels of shapes."""
OTHER_PIXELS = (
    "questions about other pixels than the first of their image, or in the other form: a file has"
    " one set of masks, and is of names or of sentences"
)
_NAME = "referring"  # the kind of question that is a name and no sentence


def write_reasonseg(file: BinaryIO, table: LabelTable, options: ExportOptions) -> ExportSummary:
    """Writes the archive. Memory: a part of the table, and 600 bytes for each image.

    Raises:
        ExportError: a mask in the table is broken.
    """
    left_out, counts, taken = Counter[str](), Counter[str](), set[str]()
    names = read_names(table)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in read_entries(table, left_out):
            name = _inside(f"{splitext(names.of(entry[0]))[0]}.json")
            if name in taken:
                left_out["questions of images that have a file already"] += len(entry)
                continue
            taken.add(name)
            same = list(_about_the_same(entry))
            left_out[OTHER_PIXELS] += len(entry) - len(same)
            counts["questions"] += len(same)
            counts["masks"] += len(same[0].targets)
            # with a date of its own, the same table would give other bytes every time
            archive.writestr(zipfile.ZipInfo(name), _write(same), zipfile.ZIP_DEFLATED)
    others = {"questions": counts["questions"]}
    return ExportSummary(len(taken), counts["masks"], others, left_out)


def check_reasonseg(path: Path) -> list[str]:
    """What is wrong with an archive, one sentence each: every file in it is read back."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [
                f"{name!r} is no ReasonSeg file"
                for name in archive.namelist()
                if not {"text", "is_sentence", "shapes"} <= json.loads(archive.read(name)).keys()
            ]
    except (zipfile.BadZipFile, ValueError, AttributeError) as error:
        return [f"{error}"]


def _inside(name: str) -> str:
    """A name that stays in the folder in which the archive is unpacked."""
    return normpath(f"/{name}").lstrip("/")


def _about_the_same(entry: Sequence[Question]) -> Iterator[Question]:
    """Those that mean the same pixels as the first, and are sentences like it."""
    first = entry[0]
    for question in entry:
        if question is first or _meaning(question) == _meaning(first):
            yield question


def _meaning(question: Question) -> tuple[object, ...]:
    shapes = [_union(each).counts.tobytes() for each in (question.targets, question.ignored)]
    return question.row.instruction_kind == _NAME, len(question.targets) > 0, *shapes


def _union(targets: Sequence[TargetRow]) -> RunMask:
    if not targets:
        return RunMask.empty((0, 0))
    masks = [read_runs(each.rle_size, each.rle_counts) for each in targets]
    if len(masks) == 1:
        return masks[0]
    return RunMask.from_pixels(np.logical_or.reduce([mask.pixels() for mask in masks]))


def _write(questions: Sequence[Question]) -> str:
    first = questions[0]
    shapes = [
        {"label": label, "labels": [label], "shape_type": "polygon", "points": polygon}
        for label, targets in ((TARGET, first.targets), (IGNORED, first.ignored))
        for polygon in trace_staircases(_union(targets))
    ]
    document = {
        "text": [question.text for question in questions],
        "is_sentence": first.row.instruction_kind != _NAME,
        "shapes": shapes,
    }
    return json.dumps(document, separators=(",", ":")) + "\n"
