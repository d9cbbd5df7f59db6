"""What of a label table goes out: which images, which masks, under which categories.

Nothing is read at once: the rows come by first without their masks (`survey`: which images, which
categories, how many masks; once more where people say what an image has not), then with them
(`select_masks`). All of it is the same for every form that lists masks; one that only shows some
has `keeps` in common with them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, auto
from hashlib import blake2b
from typing import Literal

import numpy as np

from workers.exports.categories import (
    Categories,
    CategoryMap,
    GivenIds,
    find_own_category,
    name_absent,
    name_asked,
    name_category,
    number_categories,
)
from workers.exports.images import ExportImage, add_image
from workers.labels.rows import LABELLED, has_answer
from workers.labels.schema import LabelRow, TargetRow
from workers.labels.targets import is_region, normalise_phrase

RowSource = Callable[[Sequence[str]], Iterator[LabelRow]]
"""Reads the table from its start, in an order that never changes, with the columns named."""

_ITEM = (
    "item_id",
    "status",
    "image_sha256",
    "width",
    "height",
    "instruction",
    "requested_classes",
    "origin",
    "meta_json",
)
_LIGHT = (
    "image_uri",
    "image_member",
    "targets.phrase",
    "targets.category",
    "targets.category_id",
    "targets.score",
    "targets.area",
    "targets.flags",
)
REGIONS = "regions to ignore, which are no masks of an answer"
SHEET_CARDS = 12
"""Cards of a sheet: two columns that fit a screen after some scrolling."""
_ID_BYTES = 16  # of an item id that is remembered: 10 million take 1 GB, and none collide


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What goes out, and how."""

    segmentation: Literal["rle", "polygon"] = "rle"
    """run lengths, or polygons along the pixels' edges (which many tools can read and edit)"""
    categories: Categories = "phrase"
    """one for each normalised phrase, one `object` for all, or a user's file"""
    min_score: float = 0.0
    """masks of a lower score are left out"""
    cards: int = SHEET_CARDS
    """of a sheet, at most: one for each image and instruction"""


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What was written, and what was not."""

    images: int
    masks: int
    others: Mapping[str, int]
    """what else the form holds, such as categories"""
    left_out: Mapping[str, int]
    """rows, masks or pictures by reason; `export_table` drops those that did not occur"""


@dataclass(slots=True)
class Survey:
    """What is found in the rows before their masks are read."""

    images: dict[str, ExportImage] = field(default_factory=dict)
    """by SHA-256, sorted"""
    categories: dict[str, int] = field(default_factory=dict)
    """name -> id"""
    spelling: dict[str, str] = field(default_factory=dict)
    """names that are written in another way than a file that was imported, and how"""
    absent: dict[str, set[str]] = field(default_factory=dict)
    """SHA-256 of an image -> the categories that people say it has nothing of, and nobody has
    found in it"""
    masks: int = 0
    regions: int = 0
    """to ignore"""
    left_out: Counter[str] = field(default_factory=Counter)
    """rows or masks by reason"""


@dataclass(frozen=True, slots=True)
class SelectedMask:
    """One mask that goes out."""

    row: LabelRow
    """as it was read: image_uri and what is about answers is blank"""
    target: TargetRow
    category: str
    ignored: bool = False
    """a region that counts neither for nor against"""


def survey(rows: RowSource, options: ExportOptions) -> Survey:
    """Goes through the rows without their masks."""
    found, once, given = Survey(), _Once(options), GivenIds()
    names = set[str]()
    for row in rows((*_ITEM, *_LIGHT)):
        if row.width == 0:
            found.left_out["rows whose image could not be read"] += 1
            continue
        add_image(found.images, row)
        if once.passes(row):
            names.update(_take_in(row, found, given, options))
        elif row.status in LABELLED:
            found.left_out["rows that repeat another"] += 1
    found.images = dict(sorted(found.images.items()))
    if options.categories == "phrase":
        found.spelling = given.spell(names.union(*found.absent.values()))
    names = {found.spelling.get(name, name) for name in names}
    if found.absent:
        names |= _settle_absent(rows, options, found)
    found.categories = number_categories(names, options.categories, given.kept())
    return found


def _take_in(row: LabelRow, found: Survey, given: GivenIds, options: ExportOptions) -> set[str]:
    """Counts what goes out of a row; the names of its masks' categories."""
    for target in row.targets:
        if target.category and target.category_id is not None:
            given.add(target.category, target.category_id)
    if own := find_own_category(row):
        given.add(*own)
    chosen = list(_masks_of(row, options, found.left_out))
    regions = sum(mask.ignored for mask in chosen)
    found.regions += regions
    found.masks += len(chosen) - regions
    if absent := _find_absent(row, options):
        found.absent.setdefault(row.image_sha256, set()).add(absent)
    return {mask.category for mask in chosen}


def _find_absent(row: LabelRow, options: ExportOptions) -> str | None:
    """The category that people looked for in vain; that a model found none proves nothing."""
    asked = row.requested_classes or ()
    if row.origin != "human" or row.status != "empty" or row.targets or len(asked) != 1:
        return None
    return name_absent(row, options.categories)


def _settle_absent(rows: RowSource, options: ExportOptions, found: Survey) -> set[str]:
    """Spells what is absent, and takes away what a mask contradicts; the names that stay."""
    found.absent = {
        sha256: {found.spelling.get(name, name) for name in names}
        for sha256, names in found.absent.items()
    }
    exact = isinstance(options.categories, CategoryMap)  # its names are a user's own
    for mask in select_masks(rows, options, found, _LIGHT):
        names = found.absent.get(mask.row.image_sha256, set())
        names.discard(mask.category)
        if names and not exact and (there := normalise_phrase(mask.category)):
            names -= {name for name in names if normalise_phrase(name) == there}
    return set().union(*found.absent.values())


def select_masks(
    rows: RowSource, options: ExportOptions, found: Survey, columns: Sequence[str] = ("targets",)
) -> Iterator[SelectedMask]:
    """Yields the masks and regions that go out, in the order of the table, as `survey` found them.

    Args:
        rows: the same as for `survey`.
        options: likewise.
        found: by `survey`.
        columns: that are read of the targets.
    """
    once, counted_before = _Once(options), Counter[str]()
    for row in rows((*_ITEM, *columns)):
        if row.width and once.passes(row):
            for mask in _masks_of(row, options, counted_before):
                yield replace(mask, category=found.spelling.get(mask.category, mask.category))


class _Says(IntEnum):
    """What goes out of a row, from nothing to most."""

    UNKNOWN = auto()
    """nobody answered, a model found nothing, or no mask of the answer goes out"""
    NOTHING = auto()
    """matches, as people say"""
    REGIONS = auto()
    """to ignore, and no more"""
    MASKS = auto()

    @classmethod
    def of(cls, row: LabelRow, options: ExportOptions) -> "_Says":
        if not row.targets:
            people_say = row.origin == "human" and has_answer(row)
            return cls.NOTHING if people_say else cls.UNKNOWN
        ignored = {mask.ignored for mask in _masks_of(row, options, Counter())}
        if not ignored:
            return cls.UNKNOWN
        return cls.REGIONS if all(ignored) else cls.MASKS


@dataclass(slots=True)
class _Once:
    """Lets the labels of a picture and instruction pass one time; both passes come to agree.

    In whatever order they lie there, masks pass, and so do the regions of a row that has no masks
    (what both ignore comes twice). That there is nothing passes if nobody has said more before; who
    does so later contradicts it.
    """

    options: ExportOptions
    _seen: set[bytes] = field(default_factory=set)

    def passes(self, row: LabelRow) -> bool:
        if row.status not in LABELLED:
            return False
        own = _Says.of(row, self.options)
        in_its_place = [own] if own >= _Says.REGIONS else [each for each in _Says if each >= own]
        if not self._seen.isdisjoint(_digest(f"{each} {row.item_id}") for each in in_its_place):
            return False
        self._seen.add(_digest(f"{own} {row.item_id}"))
        return True


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=_ID_BYTES).digest()


def _masks_of(
    row: LabelRow, options: ExportOptions, left_out: Counter[str]
) -> Iterator[SelectedMask]:
    for target in row.targets:
        ignored = is_region(target)
        if not (ignored or keeps(target, options, left_out)):
            continue
        category = (
            name_asked(row, options.categories)
            if ignored
            else name_category(target, row.instruction, options.categories)
        )
        if category is None:
            left_out["masks that the category file has no line for"] += 1
        else:
            yield SelectedMask(row, target, category, ignored)


def keeps(target: TargetRow, options: ExportOptions, left_out: Counter[str]) -> bool:
    """Whether a mask goes out; if not, its reason is counted."""
    if is_region(target):
        left_out[REGIONS] += 1
    elif target.area == 0:
        left_out["empty masks"] += 1
    elif np.float32(target.score) < np.float32(options.min_score):  # the table keeps 32 bits
        left_out["masks below the lowest score"] += 1
    else:
        return True
    return False
