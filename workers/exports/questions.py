"""What forms of questions and answers share: the entries of a table, and the names of images.

An entry is a record as the input had it: one image with its questions, in their order. Rows of one
entry lie in one part, so a part at a time is held.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pixellm.answers import SEG_MARK
from workers.exports.images import ExportImage, add_image, name_images
from workers.labels.origins import Origin
from workers.labels.parts import LabelTable
from workers.labels.rows import has_answer
from workers.labels.schema import LabelRow, TargetRow
from workers.labels.targets import is_region

_PLACES = ("image_sha256", "image_uri", "image_member", "width", "height")


@dataclass(frozen=True, slots=True)
class Question:
    """An answered row."""

    row: LabelRow
    origin: Origin
    targets: tuple[TargetRow, ...]
    """the masks of the answer, one for each of its marks"""
    ignored: tuple[TargetRow, ...]
    """regions that count neither for nor against"""

    @property
    def text(self) -> str:
        """What was asked, as its source words it."""
        return self.origin.question or self.row.instruction

    @property
    def answer(self) -> str:
        """What was answered, with a `[SEG]` for each target."""
        return self.row.answer_text or ""


@dataclass(frozen=True, slots=True)
class ImageNames:
    """What the images of an export are called: as the source does, else by where they lie."""

    by_digest: Mapping[str, str]

    def of(self, question: Question) -> str:
        """The name of a question's image."""
        return question.origin.image or self.by_digest[question.row.image_sha256]


def read_names(table: LabelTable) -> ImageNames:
    """Goes through the table without its masks; about 500 bytes for each image."""
    images: dict[str, ExportImage] = {}
    for row in table.rows(_PLACES):
        if row.width:
            add_image(images, row)
    return ImageNames(dict(zip(images, name_images(images), strict=True)))


def read_entries(table: LabelTable, left_out: Counter[str]) -> Iterator[Sequence[Question]]:
    """Yields the answered questions, entry by entry, in the order of the parts.

    Args:
        table: from `open_table`.
        left_out: counts what can't go out, by reason.

    Raises:
        CommitError: a part is damaged or gone.
    """
    for number in range(len(table.parts)):
        rows = sorted(table.only([number]).rows(), key=_order)
        for _, entry in groupby(rows, key=lambda row: (row.row_index, row.image_sha256)):
            questions = (_read(row, left_out) for row in entry)
            if found := [question for question in questions if question is not None]:
                yield found


def _order(row: LabelRow) -> tuple[int, str, int, str]:
    return row.row_index, row.image_sha256, Origin.of(row).place, row.instruction


def _read(row: LabelRow, left_out: Counter[str]) -> Question | None:
    if not has_answer(row):
        left_out["rows without an answer"] += 1
        return None
    if row.status == "partial":  # read again it would be a whole one, and learned
        left_out["answers that are not whole"] += 1
        return None
    targets = tuple(each for each in row.targets if not is_region(each))
    ignored = tuple(each for each in row.targets if is_region(each))
    if (row.answer_text or "").count(SEG_MARK) != len(targets):
        left_out["answers whose text marks other targets than they have masks"] += 1
        return None
    return Question(row, Origin.of(row), targets, ignored)
