"""The label table -> one COCO instance file.

Images are numbered by rank of their SHA-256, so the same pictures get the same numbers whatever
their names are; annotations in the order of the table. Nothing is read at once: the rows come by
twice, first without their masks (which images, which categories), then with them.
"""

import functools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from workers.coco.categories import Categories, name_category, number_categories
from workers.coco.check import validate_coco
from workers.coco.contours import trace_polygons
from workers.coco.images import CocoImage, add_image, image_entries
from workers.errors import ExportError
from workers.labels.manifests import current_commits
from workers.labels.rle import decode_mask
from workers.labels.rows import LABELLED, LabelRow
from workers.labels.table import read_rows
from workers.labels.targets import TargetRow
from workers.storage.objects import Store
from workers.storage.stores import open_store

RowSource = Callable[[Sequence[str]], Iterator[LabelRow]]
"""Reads the table from its start, in an order that never changes, with the columns named."""

_ITEM = ("item_id", "status", "image_sha256", "width", "height", "instruction")
_LIGHT = (
    "image_uri",
    "image_member",
    "targets.phrase",
    "targets.category",
    "targets.score",
    "targets.area",
)
_SCORE_DIGITS = 6  # the table holds float32; more digits are noise
_ID_BYTES = 16  # of an item id that is remembered: 10 million take 1 GB, and none collide


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How to write COCO."""

    segmentation: Literal["rle", "polygon"] = "rle"
    """run lengths, or polygons along the pixels' edges (which many tools can read and edit)"""
    categories: Categories = "phrase"
    """one for each normalised phrase, one `object` for all, or a user's file"""
    min_score: float = 0.0
    """masks of a lower score are left out"""


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What was written, and what was not."""

    images: int
    annotations: int
    categories: int
    left_out: Mapping[str, int]
    """rows or masks by reason; only those that occurred"""


def export_run(
    store: Store, output: str, run_id: str | None, uri: str, options: ExportOptions | None = None
) -> ExportSummary:
    """Writes the labels of one run as COCO.

    Args:
        store: of the label table.
        output: prefix of the label table.
        run_id: of the run; the newest finished one when not given.
        uri: of the file.
        options: how to write it.

    Raises:
        ExportError, StorageError: as `export_coco`.
    """
    # listed once: a run that goes on must not change the table between the two passes
    commits = list(current_commits(store, output, run_id))
    rows = functools.partial(read_rows, store, output, commits)
    return export_coco(rows, open_store(uri), uri, options)


def export_coco(
    rows: RowSource, store: Store, uri: str, options: ExportOptions | None = None
) -> ExportSummary:
    """Writes the table as COCO; nothing is written unless the file is sound.

    Memory: about 120 bytes for each row and 500 for each image, and the finished file once.

    Args:
        rows: the table.
        store: where `uri` lies.
        uri: of the file; one that is there is replaced.
        options: how to write it.

    Raises:
        ExportError: a mask in the table is broken, or the file is not sound.
        StorageError: the store failed.
    """
    chosen = options or ExportOptions()
    contents = _survey(rows, chosen)
    with tempfile.TemporaryDirectory(prefix="coco-") as folder:
        path = Path(folder) / "coco.json"
        with path.open("wb") as file:
            written = _write(file, rows, contents, chosen)
        if problems := validate_coco(path):
            raise ExportError(
                f"the export to {uri!r} is not sound and was not written: {'; '.join(problems[:3])}"
            )
        store.put(uri, path.read_bytes())
    return ExportSummary(
        images=len(contents.images),
        annotations=written,
        categories=len(contents.categories),
        left_out=dict(sorted(contents.left_out.items())),
    )


@dataclass(slots=True)
class _Contents:
    """What the first pass over the rows found."""

    images: dict[str, CocoImage] = field(default_factory=dict)
    """by SHA-256, sorted"""
    categories: dict[str, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Once:
    """Lets the labels of a picture and instruction pass one time; both passes come to agree."""

    _seen: set[bytes] = field(default_factory=set)

    def passes(self, row: LabelRow) -> bool:
        item = bytes.fromhex(row.item_id)[:_ID_BYTES]
        if row.status not in LABELLED or item in self._seen:
            return False
        self._seen.add(item)
        return True


def _survey(rows: RowSource, options: ExportOptions) -> _Contents:
    contents, once = _Contents(), _Once()
    names: set[str] = set()
    for row in rows((*_ITEM, *_LIGHT)):
        if row.width == 0:
            contents.left_out["rows whose image could not be read"] += 1
            continue
        add_image(contents.images, row)
        if once.passes(row):
            names.update(name for _, name in _exported_targets(row, options, contents.left_out))
        elif row.status in LABELLED:
            contents.left_out["rows that repeat another"] += 1
    contents.images = dict(sorted(contents.images.items()))
    contents.categories = number_categories(names, options.categories)
    return contents


def _exported_targets(
    row: LabelRow, options: ExportOptions, left_out: Counter[str]
) -> Iterator[tuple[TargetRow, str]]:
    """Yields the masks of a row that go into the file, with the name of their category."""
    for target in row.targets:
        category = name_category(target, row.instruction, options.categories)
        if target.area == 0:
            left_out["empty masks"] += 1
        elif target.score < options.min_score:
            left_out["masks below the lowest score"] += 1
        elif category is None:
            left_out["masks that the category file has no line for"] += 1
        else:
            yield target, category


def _write(file: BinaryIO, rows: RowSource, contents: _Contents, options: ExportOptions) -> int:
    """Writes the file piece by piece; returns the count of annotations."""
    numbers = {sha256: number for number, sha256 in enumerate(contents.images, start=1)}
    file.write(b'{"info":{"description":"labels made by PixelLM"},"licenses":[],"images":[')
    _write_list(file, image_entries(contents.images))
    file.write(b'],"categories":[')
    named = ({"id": number, "name": name} for name, number in contents.categories.items())
    _write_list(file, named)
    file.write(b'],"annotations":[')
    written = _write_list(file, _annotations(rows, numbers, contents.categories, options))
    file.write(b"]}\n")
    return written


def _write_list(file: BinaryIO, entries: Iterable[Mapping[str, object]]) -> int:
    count = 0
    for count, entry in enumerate(entries, start=1):
        file.write(b",\n" if count > 1 else b"\n")
        file.write(json.dumps(entry, separators=(",", ":")).encode("ascii"))
    return count


def _annotations(
    rows: RowSource,
    numbers: Mapping[str, int],
    categories: Mapping[str, int],
    options: ExportOptions,
) -> Iterator[Mapping[str, object]]:
    number, once, counted_before = 0, _Once(), Counter[str]()
    for row in rows((*_ITEM, "targets")):
        if row.width == 0 or not once.passes(row):
            continue
        for target, category in _exported_targets(row, options, counted_before):
            number += 1
            facts = {
                "score": round(target.score, _SCORE_DIGITS),
                "phrase": target.phrase or "",
                "instruction": row.instruction,
            }
            yield {
                "id": number,
                "image_id": numbers[row.image_sha256],
                "category_id": categories[category],
                "segmentation": _segmentation(target, options),
                "bbox": list(target.bbox),
                "area": target.area,
                "iscrowd": 0,
                **facts,
                "attributes": facts,
            }


def _segmentation(target: TargetRow, options: ExportOptions) -> object:
    if options.segmentation == "polygon":
        return trace_polygons(decode_mask(target.rle_size, target.rle_counts))
    return {"size": list(target.rle_size), "counts": target.rle_counts}
