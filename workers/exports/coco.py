"""Images, categories and masks -> one COCO instance file.

Images are numbered by rank of their SHA-256, so the same pictures get the same numbers whatever
their names are; annotations in the order of the table. The file is written piece by piece.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

from workers.exports.contours import trace_polygons
from workers.exports.images import ExportImage, name_images
from workers.exports.lists import write_entries
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
from workers.labels.schema import TargetRow

_SCORE_DIGITS = 6  # the table holds float32; more digits are noise


def write_coco(file: BinaryIO, table: LabelTable, options: ExportOptions) -> ExportSummary:
    """Writes the file.

    Memory: about 120 bytes for each row and 500 for each image.

    Raises:
        ExportError: a mask in the table is broken.
    """
    found = survey(table.rows, options)
    _write(file, found, select_masks(table.rows, options), options)
    others = {"categories": len(found.categories)}
    return ExportSummary(len(found.images), found.masks, others, found.left_out)


def _write(
    file: BinaryIO, found: Survey, masks: Iterable[SelectedMask], options: ExportOptions
) -> None:
    file.write(b'{"info":{"description":"labels made by PixelLM"},"licenses":[],"images":[')
    write_entries(file, _images(found.images))
    file.write(b'],"categories":[')
    write_entries(file, ({"id": number, "name": name} for name, number in found.categories.items()))
    file.write(b'],"annotations":[')
    write_entries(file, _annotations(masks, found, options))
    file.write(b"]}\n")


def _images(images: Mapping[str, ExportImage]) -> Iterator[Mapping[str, object]]:
    named = zip(images.items(), name_images(images), strict=True)
    for number, ((sha256, image), name) in enumerate(named, start=1):
        yield {
            "id": number,
            "file_name": name,
            "width": image.width,
            "height": image.height,
            "coco_url": image.address,
            "sha256": sha256,
        }


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
