"""Questions and answers -> references to annotations, as RefCOCO has them, in one JSON file.

It is a COCO instance file with a list `refs` in it; `jobs/convert.py --from refcoco` reads it
again. As in gRefCOCO, `ann_id` is a list where an expression means several things, and `no_target`
says that it means nothing. Expressions that were asked several at once go out one by one.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from workers.errors import ExportError
from workers.exports.categories import OBJECT
from workers.exports.lists import INFO, check_entries, write_entries
from workers.exports.questions import ImageNames, Question, read_entries, read_names
from workers.exports.selection import REGIONS, ExportOptions, ExportSummary
from workers.json_stream import Json
from workers.labels.origins import RefOrigin
from workers.labels.parts import LabelTable
from workers.labels.rle import measure_rle
from workers.labels.schema import TargetRow


def write_refcoco(file: BinaryIO, table: LabelTable, options: ExportOptions) -> ExportSummary:
    """Writes the file.

    Memory: a part of the table, 500 bytes for each image, 100 for each mask and 1 KB for each
    expression.
    """
    left_out = Counter[str]()
    found = _Found(read_names(table))
    file.write(INFO + b'"annotations":[')
    write_entries(file, _annotations(found, table, left_out))
    for key, entries in (
        ("images", found.images.values()),
        ("categories", ({"id": n, "name": name} for name, n in found.categories.items())),
        ("refs", map(_finish, found.refs.values())),
    ):
        file.write(f'],"{key}":['.encode())
        write_entries(file, entries)
    file.write(b"]}\n")
    others = {"references": len(found.refs), "expressions": found.expressions}
    return ExportSummary(len(found.images), len(found.masks), others, left_out)


def check_refcoco(path: Path) -> list[str]:
    """What is wrong with a file, one sentence each."""
    return check_entries(path, _check_entry)


@dataclass(slots=True)
class _Found:
    """What was written so far, and what is to come behind it."""

    names: ImageNames
    images: dict[str, dict[str, object]] = field(default_factory=dict)
    """by name"""
    categories: dict[str, int] = field(default_factory=dict)
    masks: dict[bytes, int] = field(default_factory=dict)
    """digest of image and mask -> number of the annotation"""
    refs: dict[int, dict[str, Any]] = field(default_factory=dict)
    said: set[tuple[int, int]] = field(default_factory=set)
    """reference and sentence"""
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    """of references that had none"""

    @property
    def expressions(self) -> int:
        """How many there are."""
        return len(self.said)

    def number_image(self, question: Question) -> int:
        """The number of a question's image."""
        name, row = self.names.of(question), question.row
        image = self.images.setdefault(
            name,
            {
                "id": len(self.images) + 1,
                "file_name": name,
                "height": row.height,
                "width": row.width,
            },
        )
        return int(str(image["id"]))

    def number_category(self, target: TargetRow) -> int:
        """The number of a target's category: its own where that is free."""
        name = target.category or OBJECT
        if name not in self.categories:
            taken = set(self.categories.values())
            wanted = target.category_id
            free = (number for number in count(1) if number not in taken)
            is_free = wanted is not None and wanted not in taken
            self.categories[name] = wanted if is_free and wanted is not None else next(free)
        return self.categories[name]


def _annotations(found: _Found, table: LabelTable, left_out: Counter[str]) -> Iterator[Json]:
    """Yields each mask of an image once, and takes down the references."""
    for entry in read_entries(table, left_out):
        for question in entry:
            image = found.number_image(question)
            numbers = []
            for target in question.targets:
                digest = sha256(
                    f"{image}\n{target.category}\n{target.rle_counts}".encode()
                ).digest()
                if digest not in found.masks:
                    found.masks[digest] = len(found.masks) + 1
                    yield _annotation(found, target, image, found.masks[digest])
                numbers.append(found.masks[digest])
            left_out[REGIONS] += len(question.ignored)
            _refer(found, question, image, numbers)


def _annotation(found: _Found, target: TargetRow, image: int, number: int) -> Json:
    return {
        "id": number,
        "image_id": image,
        "category_id": found.number_category(target),
        "segmentation": {"size": list(target.rle_size), "counts": target.rle_counts},
        "bbox": list(target.bbox),
        "area": target.area,
        "iscrowd": 0,
    }


def _refer(found: _Found, question: Question, image: int, numbers: Sequence[int]) -> None:
    refs = question.origin.refs
    if len(refs) > 1:  # several at once: one mask each
        for ref, number, target in zip(refs, numbers, question.targets, strict=True):
            _add(found, question, ref, image, [number], [target])
        return
    ref = refs[0] if refs else RefOrigin(next(found.numbers), 0, question.text)
    _add(found, question, ref, image, numbers, question.targets)


def _add(
    found: _Found,
    question: Question,
    ref: RefOrigin,
    image: int,
    numbers: Sequence[int],
    targets: Sequence[TargetRow],
) -> None:
    if (ref.ref, ref.sentence) in found.said:
        return  # once by itself, once with others
    found.said.add((ref.ref, ref.sentence))
    categories = [found.number_category(target) for target in targets]
    one = len(numbers) == 1
    entry = found.refs.setdefault(
        ref.ref,
        {
            "ref_id": ref.ref,
            "image_id": image,
            "file_name": found.names.of(question),
            "split": ref.split,
            "ann_id": numbers[0] if one else list(numbers) or [-1],
            "category_id": categories[0] if one else categories or [-1],
            "no_target": not numbers,
            "sentences": [],
        },
    )
    entry["sentences"].append(
        {"sent_id": ref.sentence, "sent": ref.text, "raw": ref.text, "tokens": ref.text.split()}
    )


def _finish(entry: Mapping[str, Any]) -> Json:
    return {**entry, "sent_ids": [sentence["sent_id"] for sentence in entry["sentences"]]}


def _check_entry(key: str, entry: Mapping[str, Any]) -> Iterator[str]:
    try:
        if key == "annotations":
            mask = entry["segmentation"]
            area, _ = measure_rle(tuple(mask["size"]), mask["counts"])
            if area != entry["area"]:
                yield f"area {entry['area']!r}, but its mask has {area} pixels"
        elif key == "refs" and not entry["sentences"]:
            yield "a reference without a sentence"
    except (KeyError, TypeError, ValueError, ExportError) as error:
        yield f"{type(error).__name__}: {error}"
