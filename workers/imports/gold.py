"""What every form is read into: images with questions, and the answers that people gave them.

A mask stays a `Shape` until its picture has been decoded, since polygons become pixels only in a
frame, and many files don't say how large it is. Nothing that is wrong with an entry is raised: it
ends as a rejection, because every entry must end as rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pixellm.answers import SEG_MARK
from pixellm.phrases import Span
from pixellm.run_lengths import RunMask
from workers.errors import RecordRejected
from workers.labels.origins import Origin
from workers.records.instructions import Instruction, derive_instruction_id, make_instruction
from workers.records.record import ImageRef
from workers.records.rejections import Reason, Rejection, quote

Size = tuple[int, int]
"""h, w of the upright picture"""
MAX_TARGETS = 1000
"""Of one question; a file that has more is not about things that somebody pointed at."""
_KEPT_TEXT_CHARS = 200
"""Of a question that was refused, to recognise it by in its row."""


class Shape(Protocol):
    """A mask as its source describes it."""

    def cut(self, size: Size) -> RunMask:
        """Its pixels in a picture of a size.

        Raises:
            RecordRejected: it can't be read, or belongs to a picture of another size.
        """


@dataclass(frozen=True, slots=True)
class GoldTarget:
    """One thing of an answer."""

    shape: Shape
    phrase: str | None
    span: Span | None
    """of the phrase in the answer's text, in code points; None unless it is there"""
    phrase_source: str
    """`answer`, `instruction`, `annotation` or `none`"""
    category: str | None = None
    category_id: int | None = None


@dataclass(frozen=True, slots=True)
class GoldQuestion:
    """A question with its answer, or with why it can't be used."""

    instruction: Instruction
    answer: str = ""
    """with a `[SEG]` for each target"""
    targets: tuple[GoldTarget, ...] = ()
    """in the order of the marks"""
    ignored: Shape | None = None
    """pixels that count neither for nor against; without targets, nobody answered"""
    origin: Origin = field(default_factory=Origin)
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class GoldRecord:
    """One entry of the source: an image and what was asked of it."""

    source_id: str | None
    images: tuple[ImageRef, ...]
    """where the image may lie; the first that is there is taken"""
    questions: tuple[GoldQuestion, ...]
    size: Size | None = None
    """of the image, where the source says it"""
    rejection: Rejection | None = None
    """why none of it can be used"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the source words it, and how it is put."""

    text: object
    """what stands in the source; it may be anything"""
    form: str
    """a text with `{}`, where the words go"""
    kind: str
    """see `Instruction`"""
    classes: tuple[str, ...] = ()


def make_record(
    source_id: str | None,
    find: Callable[[], tuple[ImageRef, ...]],
    questions: Iterable[GoldQuestion],
    size: Size | None,
) -> GoldRecord:
    """An entry with its image; with a rejection where there is none to look for.

    Args:
        source_id: the source's own name for the entry.
        find: says where its image may lie, or raises a `RecordRejected`.
        questions: about it.
        size: of the image, where the source says it.
    """
    asked = tuple(questions)
    try:
        return GoldRecord(source_id, find(), asked, size)
    except RecordRejected as error:
        return GoldRecord(source_id, (), asked, size, Rejection.of(error))


def refuse_record(entry: object) -> GoldRecord:
    """An entry that is no object, so that there is nothing to be read in it."""
    why = Rejection(Reason.RECORD_BROKEN, f"an entry must be an object, not {quote(entry)}")
    return GoldRecord(None, (), (), rejection=why)


def answer_question(
    asked: Asked,
    answer: str,
    targets: Sequence[GoldTarget],
    origin: Origin,
    ignored: Shape | None = None,
) -> GoldQuestion:
    """A question with its answer; with a rejection where they can't be used."""
    try:
        instruction = _instruct(asked)
        _check_answer(answer, targets)
    except RecordRejected as error:
        return refuse_question(asked, Rejection.of(error), origin)
    if instruction.text != asked.text and not origin.refs:
        origin = replace(origin, question=str(asked.text))
    return GoldQuestion(instruction, answer, tuple(targets), ignored, origin)


def refuse_question(asked: Asked, why: Rejection, origin: Origin) -> GoldQuestion:
    """A question that can't be used."""
    text = asked.text if isinstance(asked.text, str) else quote(asked.text)
    kept = text[:_KEPT_TEXT_CHARS]
    instruction = Instruction(derive_instruction_id(kept), kept, asked.kind)
    return GoldQuestion(instruction, origin=origin, rejection=why)


def _instruct(asked: Asked) -> Instruction:
    if not isinstance(asked.text, str):
        raise RecordRejected(
            Reason.INSTRUCTION_INVALID, f"a question must be a text, not {quote(asked.text)}"
        )
    make_instruction(asked.text)  # of which nothing is left, words around it make no question
    text = asked.form.replace("{}", asked.text)
    return make_instruction(text, kind=asked.kind, classes=asked.classes)


def _check_answer(answer: str, targets: Sequence[GoldTarget]) -> None:
    if len(targets) > MAX_TARGETS:
        raise RecordRejected(
            Reason.ANSWER_MISMATCH,
            f"{len(targets):,} masks for one question; at most {MAX_TARGETS}",
        )
    if (marks := answer.count(SEG_MARK)) != len(targets):
        raise RecordRejected(
            Reason.ANSWER_MISMATCH,
            f"the answer {quote(answer)} marks {marks} targets, and has {len(targets)} masks",
        )
