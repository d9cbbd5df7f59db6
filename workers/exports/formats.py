"""The forms that a label table can be written in, and the one way from a table to a file.

    rows -> survey -> write -> check -> put

A new form is a module with a function that writes it, and a line in `FORMATS`.
"""

import functools
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from workers.errors import ExportError
from workers.exports.coco import write_coco
from workers.exports.coco_check import validate_coco
from workers.exports.selection import (
    ExportOptions,
    RowSource,
    SelectedMask,
    Survey,
    select_masks,
    survey,
)
from workers.labels.manifests import current_commits, read_rows
from workers.storage.objects import Store
from workers.storage.stores import open_store


@dataclass(frozen=True, slots=True)
class Format:
    """How one form is written, and how a file of it is looked at before anybody gets it."""

    write: Callable[[BinaryIO, Survey, Iterable[SelectedMask], ExportOptions], None]
    """takes the masks as they come by; raises `ExportError` where one is broken"""
    check: Callable[[Path], list[str]]
    """what is wrong with a file, one sentence each; empty when it is sound"""
    checker: str
    """whose eyes the check sees with, for people"""


FORMATS: Mapping[str, Format] = {
    "coco": Format(write_coco, validate_coco, "pycocotools"),
}
"""By the name that `--to` takes."""


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What was written, and what was not."""

    images: int
    masks: int
    categories: int
    left_out: Mapping[str, int]
    """rows or masks by reason; only those that occurred"""


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
        ExportError: a mask in the table is broken, or the file is not sound.
        StorageError: a store failed.
    """
    # listed once: a run that goes on must not change the table between the two passes
    commits = list(current_commits(store, output, run_id))
    rows = functools.partial(read_rows, store, output, commits)
    return export_rows(form, rows, open_store(uri), uri, options)


def export_rows(
    form: str, rows: RowSource, store: Store, uri: str, options: ExportOptions | None = None
) -> ExportSummary:
    """Writes rows of a label table into one file; nothing is written unless it is sound.

    Memory: about 120 bytes for each row and 500 for each image, and what the check takes.

    Args:
        form: one of `FORMATS`.
        rows: the table.
        store: where `uri` lies.
        uri: of the file; one that is there is replaced.
        options: what goes out, and how.

    Raises:
        ExportError: a mask in the table is broken, or the file is not sound.
        StorageError: the store failed.
    """
    chosen = options or ExportOptions()
    found = survey(rows, chosen)
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        path = Path(folder) / form
        with path.open("wb") as file:
            FORMATS[form].write(file, found, select_masks(rows, chosen), chosen)
        if problems := FORMATS[form].check(path):
            raise ExportError(
                f"the export to {uri!r} is not sound and was not written: {'; '.join(problems[:3])}"
            )
        store.put(uri, path.read_bytes())
    return ExportSummary(
        images=len(found.images),
        masks=found.masks,
        categories=len(found.categories),
        left_out=dict(sorted(found.left_out.items())),
    )
