"""One row of a label table -> an example that can be learned from, or why it can't be.

What a row says must hold together: an answer, a "[SEG]" in it for each mask, masks of the picture's
size. A target that is flagged `ignore_region` is no mask of the answer; where it lies, the masks of
this answer are neither right nor wrong: these pixels are left out of the losses.
"""

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Literal

import numpy as np

from pixellm.answers import SEG_MARK
from pixellm.run_lengths import RunMask
from workers.errors import ExportError
from workers.labels.rle import decode_runs
from workers.labels.schema import LabelRow, TargetRow
from workers.labels.targets import is_region
from workers.records.record import ImageRef
from workers.training.ordering import are_alike

LEARNED = ("ok", "empty")
"""The statuses of rows that can be learned from. `partial` ones broke off, or are a crowd; a model
that learns them learns to break off."""
CHECKED = ("accepted", "corrected")
"""Reviews after which a row is a person's word."""
COLUMNS = (
    "item_id",
    "image_uri",
    "image_member",
    "image_sha256",
    "width",
    "height",
    "instruction",
    "status",
    "answer_text",
    "review",
    "origin",
    "targets.rle_size",
    "targets.rle_counts",
    "targets.score",
    "targets.flags",
    "targets.phrase",
    "targets.category",
)
"""All that is read of a row."""


class Why(StrEnum):
    """Why a row is passed over: stable codes, to count by.

    What is wrong with a picture has the codes of `workers.records.rejections.Reason` besides these.
    """

    NO_LABEL = "no_label"
    """its status is `partial`, `rejected_input` or `failed`"""
    NO_ANSWER = "no_answer"
    """it has no answer text"""
    UNCHECKED = "unchecked"
    """a model made it, nobody has accepted or corrected it, and only checked rows are learned"""
    OTHER_REVIEW = "other_review"
    """its review says that it is not to be learned"""
    LOW_SCORE = "low_score"
    """one of its masks has a lower score than is learned"""
    OTHER_SIDE = "other_side"
    """its image lies on the other side of the split"""
    MARKS_DIFFER = "marks_differ"
    """the answer has more or fewer `[SEG]` than the row has masks"""
    SIZE_DIFFERS = "size_differs"
    """a mask is not of the picture's size"""
    MASK_BROKEN = "mask_broken"
    """the run lengths of a mask can't be read"""
    MASK_EMPTY = "mask_empty"
    """a mask has no pixel"""
    TOO_LONG = "too_long"
    """question, answer and image take more places than the model has"""
    SPECIAL_TOKENS = "special_tokens"
    """question or answer hold tokens that only the form of a conversation may have"""
    IMAGE_REPLACED = "image_replaced"
    """the file is not the one that was labelled: its SHA-256 is another"""
    IMAGE_RESIZED = "image_resized"
    """its picture has not the size that the row says"""


@dataclass(frozen=True, slots=True)
class TrainOn:
    """Which rows count. One that a person rejected never does, nor one that waits for review."""

    checked_only: bool = False
    """only rows that a person made, accepted or corrected: what a model said and nobody has looked
    at is as good as that model"""
    min_score: float = 0.0
    """of each mask of the row, 0 to 1; one below, and the row is passed over: its answer names a
    thing that is then not there"""


@dataclass(frozen=True, slots=True)
class Split:
    """One side of a table that is cut in two by its images.

    All questions about an image lie on one side, by a hash of its SHA-256: in every table, for
    ever, however many images are added.
    """

    side: Literal["train", "held_out"]
    held_out: float = 0.2
    """share of the images that lie on the side of that name, 0 to 1"""

    def holds(self, image_sha256: str) -> bool:
        """Whether an image lies on this side."""
        digest = sha256(f"pixellm split\n{image_sha256}".encode()).digest()
        place = int.from_bytes(digest[:6], "big") / 2**48
        return (place < self.held_out) == (self.side == "held_out")


PictureKey = tuple[str, str, str | None]
"""What a picture is known by: its SHA-256, and where it lies (URI, and member of an archive)."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question about an image with its right answer."""

    item_id: str
    image: ImageRef
    """where its file is; the bytes are fetched when a batch is made"""
    image_sha256: str
    """of the file that was labelled, 64 hex digits"""
    size: tuple[int, int]
    """h, w of the upright picture"""
    question: str
    answer: str
    """with a "[SEG]" for each mask"""
    masks: tuple[RunMask, ...]
    """(h, w) each, in the order of the marks"""
    ignored: tuple[RunMask, ...] = ()
    """(h, w) each: pixels of which nobody says whether they belong to a mask"""
    alike: bool = False
    """whether no word of the answer tells its masks apart, so that their order means nothing"""

    @property
    def picture_key(self) -> PictureKey:
        """What its picture is known by."""
        return self.image_sha256, self.image.uri, self.image.member


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that can't be learned from."""

    reason: str
    """one of `Why`, or of `Reason` where it is about the picture"""
    item_id: str


def read_example(
    row: LabelRow, train_on: TrainOn | None = None, split: Split | None = None
) -> Example | Skipped:
    """Reads one row.

    Args:
        row: with `COLUMNS`.
        train_on: which rows count.
        split: which images count; None for all.
    """
    why = find_unwanted(row, train_on or TrainOn(), split)
    if why is not None:
        return Skipped(why, row.item_id)
    targets = [target for target in row.targets if not is_region(target)]
    ignored = [target for target in row.targets if is_region(target)]
    why = _find_contradiction(row, targets, ignored)
    if why is not None:
        return Skipped(why, row.item_id)
    try:
        masks, unsure = (
            tuple(decode_runs(each.rle_size, each.rle_counts) for each in kind)
            for kind in (targets, ignored)
        )
    except ExportError:
        return Skipped(Why.MASK_BROKEN, row.item_id)
    if not all(mask.area for mask in masks):
        return Skipped(Why.MASK_EMPTY, row.item_id)
    return Example(
        item_id=row.item_id,
        image=ImageRef(row.image_uri, row.image_member, None, None),
        image_sha256=row.image_sha256,
        size=(row.height, row.width),
        question=row.instruction,
        answer=row.answer_text or "",
        masks=masks,
        ignored=unsure,
        alike=are_alike(row.answer_text or "", [(each.phrase, each.category) for each in targets]),
    )


def find_unwanted(row: LabelRow, train_on: TrainOn, split: Split | None) -> Why | None:
    """Why a row is not to be learned, whatever it says; its masks may be missing."""
    if row.status not in LEARNED:
        return Why.NO_LABEL
    if split is not None and not split.holds(row.image_sha256):
        return Why.OTHER_SIDE
    if row.review not in ("none", *CHECKED):
        return Why.OTHER_REVIEW
    if train_on.checked_only and row.origin != "human" and row.review not in CHECKED:
        return Why.UNCHECKED
    lowest = np.float32(train_on.min_score)  # the table keeps 32 bits
    scores = (np.float32(each.score) for each in row.targets if not is_region(each))
    return Why.LOW_SCORE if any(score < lowest for score in scores) else None


def _find_contradiction(
    row: LabelRow, targets: list[TargetRow], ignored: list[TargetRow]
) -> Why | None:
    """What in a row does not hold together."""
    if not row.answer_text or not row.instruction:
        return Why.NO_ANSWER
    if row.answer_text.count(SEG_MARK) != len(targets):
        return Why.MARKS_DIFFER
    size = (row.height, row.width)
    if any(target.rle_size != size for target in (*targets, *ignored)):
        return Why.SIZE_DIFFERS
    return None
