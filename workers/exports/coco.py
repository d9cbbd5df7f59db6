"""Images, categories and masks -> one COCO instance file.

Images are numbered by rank of their SHA-256, so the same pictures get the same numbers whatever
their names are; annotations in the order of the table. Categories of an imported file keep the ids
that they have there, regions to ignore are crowds, and what people looked for in vain is in an
image's `neg_category_ids`, as in LVIS. The file is written piece by piece.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

from workers.exports.contours import trace_polygons
from workers.exports.images import name_images
from workers.exports.lists import INFO, write_entries
from workers.exports.selection import (
    ExportOptions,
    ExportSummary,
    SelectedMask,
    Survey,
    select_masks,
    survey,
)
from workers.labels.parts import LabelTable
from workers.labels.rle import decode_mask

_SCORE_DIGITS = 6  # the table holds float32; more digits are noise


def write_coco(file: BinaryIO, table: LabelTable, options: ExportOptions) -> ExportSummary:
    """Writes the file.

    Memory: about 120 bytes for each row and 500 for each image.

    Raises:
        ExportError: a mask in the table is broken.
    """
    found = survey(table.rows, options)
    _write(file, found, select_masks(table.rows, options, found), options)
    others = {"categories": len(found.categories)}
    if found.regions:
        others["regions to ignore"] = found.regions
    return ExportSummary(len(found.images), found.masks, others, found.left_out)


def _write(
    file: BinaryIO, found: Survey, masks: Iterable[SelectedMask], options: ExportOptions
) -> None:
    file.write(INFO + b'"licenses":[],"images":[')
    write_entries(file, _images(found))
    file.write(b'],"categories":[')
    write_entries(file, ({"id": number, "name": name} for name, number in found.categories.items()))
    file.write(b'],"annotations":[')
    write_entries(file, _annotations(masks, found, options))
    file.write(b"]}\n")


def _images(found: Survey) -> Iterator[Mapping[str, object]]:
    named = zip(found.images.items(), name_images(found.images), strict=True)
    for number, ((sha256, image), name) in enumerate(named, start=1):
        yield {
            "id": number,
            "file_name": name,
            "width": image.width,
            "height": image.height,
            "coco_url": image.address,
            "sha256": sha256,
            **_absent(found, sha256),
        }


def _absent(found: Survey, sha256: str) -> Mapping[str, object]:
    """What the image has nothing of, as LVIS says it."""
    ids = sorted(found.categories[name] for name in found.absent.get(sha256, ()))
    return {"neg_category_ids": ids} if ids else {}


def _annotations(
    masks: Iterable[SelectedMask], found: Survey, options: ExportOptions
) -> Iterator[Mapping[str, object]]:
    numbers = {sha256: number for number, sha256 in enumerate(found.images, start=1)}
    for number, mask in enumerate(masks, start=1):
        target = mask.target
        facts = {
            "score": round(target.score, _SCORE_DIGITS),
            "phrase": target.phrase or "",
            "instruction": mask.row.instruction,
        }
        yield {
            "id": number,
            "image_id": numbers[mask.row.image_sha256],
            "category_id": found.categories[mask.category],
            "segmentation": _segmentation(mask, options),
            "bbox": list(target.bbox),
            "area": target.area,
            "iscrowd": int(mask.ignored),
            **facts,
            "attributes": facts,
        }


def _segmentation(mask: SelectedMask, options: ExportOptions) -> object:
    """Crowds are run lengths in every COCO file, so regions are, too."""
    target = mask.target
    if options.segmentation == "polygon" and not mask.ignored:
        return trace_polygons(decode_mask(target.rle_size, target.rle_counts))
    return {"size": list(target.rle_size), "counts": target.rle_counts}
