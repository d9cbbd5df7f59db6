"""The forms that a label table can be written in, and the one way from a table to a file.

    table -> write -> check -> put

A new form is a module with a function that writes it, and a line in `FORMATS`. The function takes
from the table what it needs: `workers.exports.selection` has what forms with a list of masks share.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from workers.errors import ExportError
from workers.exports.coco import write_coco
from workers.exports.coco_check import validate_coco
from workers.exports.muse import check_muse, write_muse
from workers.exports.reasonseg import check_reasonseg, write_reasonseg
from workers.exports.records import check_records, write_records
from workers.exports.refcoco import check_refcoco, write_refcoco
from workers.exports.referring import check_referring, write_referring
from workers.exports.selection import ExportOptions, ExportSummary
from workers.exports.sheet import check_sheet, write_sheet
from workers.labels.parts import LabelTable, open_table
from workers.storage.objects import Store
from workers.storage.stores import open_store
from workers.storage.uris import shown


@dataclass(frozen=True, slots=True)
class Format:
    """How one form is written, and how a file of it is looked at before anybody gets it."""

    about: str
    """what a file of it is, for people who know its name"""
    write: Callable[[BinaryIO, LabelTable, ExportOptions], ExportSummary]
    """raises `ExportError` where the table can't be written in this form"""
    check: Callable[[Path], list[str]]
    """what is wrong with a file, one sentence each; empty when it is sound"""
    checker: str
    """whose eyes the check sees with, for people"""
    file: str
    """what a file of it is called where nobody names one"""
    takes: frozenset[str] = frozenset()
    """the fields of `ExportOptions` that mean something to it; flags for others are refused"""


REREAD = "a second reading"

FORMATS: Mapping[str, Format] = {
    "coco": Format(
        "instances",
        write_coco,
        validate_coco,
        "pycocotools",
        "coco.json",
        frozenset({"segmentation", "categories", "min_score"}),
    ),
    "sheet": Format(
        "a PNG of the first images with their masks and phrases",
        write_sheet,
        check_sheet,
        "Pillow",
        "sheet.png",
        frozenset({"cards", "min_score"}),
    ),
    "muse": Format(
        "questions about images with their answers", write_muse, check_muse, REREAD, "muse.json"
    ),
    "referring": Format(
        "expressions with their masks", write_referring, check_referring, REREAD, "referring.json"
    ),
    "refcoco": Format(
        "references beside instances", write_refcoco, check_refcoco, REREAD, "refcoco.json"
    ),
    "reasonseg": Format(
        "a ZIP of a JSON for each image", write_reasonseg, check_reasonseg, REREAD, "reasonseg.zip"
    ),
    "records": Format(
        "JSONL of the questions alone, for --input of jobs/label.py",
        write_records,
        check_records,
        "the reader of records",
        "records.jsonl",
    ),
}
"""By the name that `--to` takes."""


def export_run(
    form: str,
    store: Store,
    output: str,
    run_id: str | None,
    uri: str,
    options: ExportOptions | None = None,
) -> ExportSummary:
    """Writes the labels of one run.

    Args:
        form: one of `FORMATS`.
        store: of the label table.
        output: its prefix.
        run_id: the run; None for the newest finished one.
        uri: of the file; one that is there is replaced.
        options: what goes out, and how.

    Raises:
        CommitError: nothing has been committed, or several runs and none of them finished.
        ExportError: the table can't be written in this form, or the file is not sound.
        StorageError: a store failed.
    """
    return export_table(form, open_table(store, output, run_id), open_store(uri), uri, options)


def export_table(
    form: str, table: LabelTable, store: Store, uri: str, options: ExportOptions | None = None
) -> ExportSummary:
    """Writes a label table into one file; nothing is written unless it is sound.

    Memory: what the form says, and what its check takes.

    Args:
        form: one of `FORMATS`.
        table: from `open_table`.
        store: where `uri` lies.
        uri: of the file; one that is there is replaced.
        options: what goes out, and how.

    Raises:
        CommitError: a part of the table is damaged or gone.
        ExportError: the table can't be written in this form, or the file is not sound.
        StorageError: a store failed.
    """
    chosen = FORMATS[form]
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        path = Path(folder) / form
        with path.open("wb") as file:
            summary = chosen.write(file, table, options or ExportOptions())
        if problems := chosen.check(path):
            raise ExportError(
                f"the export to {shown(uri)} is not sound and was not written:"
                f" {'; '.join(problems[:3])}"
            )
        store.put(uri, path.read_bytes())
    occurred = {why: count for why, count in sorted(summary.left_out.items()) if count}
    return replace(summary, left_out=occurred)
