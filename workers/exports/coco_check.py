"""Looks at a COCO file with the eyes of the tools that will read it.

Each check stands for a way in which a file has lost masks without a word: pycocotools takes an
annotation id of 0 for "no match" (AP 1.0 becomes 0.56), keeps only one of two annotations with the
same id, and a mask of area 0 is a division by zero in many a training script.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.errors import ExportError
from workers.exports.lists import MAX_PROBLEMS
from workers.labels.rle import fill_polygons, find_load_problem, measure_mask, measure_rle

_BBOX_TOLERANCE = 1e-3  # pixels; the file holds decimal numbers

Entry = Mapping[str, Any]  # one JSON object of the file, which may hold anything


def validate_coco(path: Path) -> list[str]:
    """What is wrong with a COCO instance file, one sentence each; empty when it is sound.

    Memory: the whole file as Python objects, 4 times its size with run lengths and 7 times with
    polygons (measured on files of 70 and 55 MB).
    """
    problems = _find_problems(path)  # lets its copy of the file go before pycocotools makes another
    if not problems and (problem := find_load_problem(path)):
        problems.append(problem)
    return problems


def _find_problems(path: Path) -> list[str]:
    try:
        document = json.loads(path.read_bytes())
        parts = [_entries(document, name) for name in ("images", "categories", "annotations")]
    except (ValueError, RecursionError, ExportError) as error:
        return [f"{error}"]
    images, categories, annotations = parts
    problems = [
        *_check_ids(images, "image"),
        *_check_ids(categories, "category", first=0),  # as many tools number them
        *_check_ids(annotations, "annotation"),
        *_check_images(images),
    ]
    known = _Known(
        {each.get("id"): each for each in images},
        {each.get("id") for each in categories},
        {(each.get("image_id"), each.get("category_id")) for each in annotations},
    )
    for image in images:
        problems += _check_absent(image, known)
    for annotation in annotations:
        problems += _check_annotation(annotation, known)
        if len(problems) >= MAX_PROBLEMS:
            return [*problems[:MAX_PROBLEMS], "and more; only the first are listed"]
    return problems


@dataclass(frozen=True, slots=True)
class _Known:
    """What an annotation may refer to."""

    images: Mapping[object, Entry]
    categories: set[object]
    there: set[tuple[object, object]]
    """image and category of what is annotated"""


def _entries(document: object, name: str) -> list[Entry]:
    entries = document.get(name) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise ExportError(f"the file has no list of objects {name!r}")
    return entries


def _check_ids(entries: list[Entry], what: str, first: int = 1) -> Iterator[str]:
    ids = [each.get("id") for each in entries]
    for number in ids:
        if not isinstance(number, int) or isinstance(number, bool) or number < first:
            yield f"{what} id {number!r}: ids are whole numbers from {first}"
    for number, times in Counter(map(str, ids)).items():
        if times > 1:
            yield f"{what} id {number} occurs {times} times"


def _check_images(images: list[Entry]) -> Iterator[str]:
    for image in images:
        if not _is_size(image.get("width")) or not _is_size(image.get("height")):
            yield f"image {image.get('id')!r} has no width and height"
    for name, times in Counter(str(image.get("file_name") or "") for image in images).items():
        if not name or times > 1:
            yield f"file_name {name!r} belongs to {times} images"


def _check_absent(image: Entry, known: _Known) -> Iterator[str]:
    for number in image.get("neg_category_ids", ()):
        if number not in known.categories:
            yield f"image {image.get('id')!r}: there is no category {number!r} for it to have not"
        elif (image.get("id"), number) in known.there:
            yield f"image {image.get('id')!r} has masks of category {number!r}, which it has not"


def _is_size(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _check_annotation(annotation: Entry, known: _Known) -> Iterator[str]:
    who = f"annotation {annotation.get('id')!r}"
    if annotation.get("category_id") not in known.categories:
        yield f"{who}: there is no category {annotation.get('category_id')!r}"
    image = known.images.get(annotation.get("image_id"))
    if image is None:
        yield f"{who}: there is no image {annotation.get('image_id')!r}"
        return
    try:
        area, bbox = _measure(annotation.get("segmentation"), image)
    except (ExportError, KeyError, TypeError, ValueError) as error:
        yield f"{who}: {error}"
        return
    if area == 0:
        yield f"{who}: its mask is empty"
    if annotation.get("area") != area:
        yield f"{who}: area {annotation.get('area')!r}, but its mask has {area} pixels"
    if not _is_same_box(annotation.get("bbox"), bbox):
        yield f"{who}: bbox {annotation.get('bbox')!r}, but its mask lies in {list(bbox)}"


def _measure(segmentation: object, image: Entry) -> tuple[int, tuple[float, float, float, float]]:
    size = (int(image["height"]), int(image["width"]))
    if isinstance(segmentation, list) and segmentation:
        return measure_mask(fill_polygons(segmentation, size))
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), str):
        raise ExportError("its segmentation is neither polygons nor compressed run lengths")
    if tuple(segmentation["size"]) != size:
        raise ExportError(
            f"its mask has size {segmentation['size']!r}, its image {list(size)!r} (height, width)"
        )
    return measure_rle(size, segmentation["counts"])


def _is_same_box(found: object, true: tuple[float, float, float, float]) -> bool:
    return (
        isinstance(found, list)
        and len(found) == len(true)
        and all(abs(a - b) <= _BBOX_TOLERANCE for a, b in zip(found, true, strict=True))
    )
