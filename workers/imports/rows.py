"""An entry of a source -> rows of the label table.

    entry -> picture -> masks in its frame -> rows

Rows are made by the same functions as those of a model's answers. As many come out as questions
went in, or one where an entry has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pixellm.answers import Answer, Target
from pixellm.run_lengths import RunMask
from workers.errors import RecordRejected
from workers.imports.gold import GoldQuestion, GoldRecord, GoldTarget
from workers.labels.rows import Attempt, answer_row, rejected_rows
from workers.labels.schema import LabelRow, TargetRow
from workers.labels.targets import IGNORE_REGION, target_rows
from workers.records.pictures import (
    PictureFacts,
    PictureLimits,
    decode_picture,
    identify_undecoded,
)
from workers.records.reading import fetch_image
from workers.records.record import ImageRef, Record
from workers.records.rejections import Reason, Rejection
from workers.storage.objects import Store

_CERTAIN = 1.0  # the score of a mask that a person drew
_TURNED = 5  # EXIF orientations from here on swap width and height
_NOTHING_ASKED = Rejection(Reason.INSTRUCTION_MISSING, "the entry has no question")


@dataclass(frozen=True, slots=True)
class _Opened:
    """An image, as far as it could be had."""

    image: ImageRef | None
    facts: PictureFacts | None
    rejection: Rejection | None


def gold_rows(
    index: int, gold: GoldRecord, attempt: Attempt, store: Store, limits: PictureLimits
) -> list[LabelRow]:
    """The rows of one entry.

    Args:
        index: its place in the shard, from 0.
        gold: the entry.
        attempt: where the rows come from.
        store: where its images lie.
        limits: images over them are rejected.

    Raises:
        StorageError: the store failed.
    """
    opened = _open_first(gold, store, limits)
    record = Record(index, gold.source_id, opened.image, (), None, opened.rejection)
    if not gold.questions:
        why = opened.rejection or _NOTHING_ASKED
        return rejected_rows(record, why, attempt, opened.facts)
    return [_make_row(record, question, opened, attempt) for question in gold.questions]


def _open_first(gold: GoldRecord, store: Store, limits: PictureLimits) -> _Opened:
    """The first of the places where there is a file; what is wrong with that one counts."""
    first = gold.images[0] if gold.images else None
    if gold.rejection is not None:
        return _Opened(first, None, gold.rejection)
    missing = None
    for image in gold.images:
        try:
            data = fetch_image(image, store, limits.max_bytes)
        except RecordRejected as error:
            if error.code != Reason.IMAGE_MISSING:
                return _Opened(image, None, Rejection.of(error))
            missing = missing or Rejection.of(error)
        else:
            return _decode(image, data, gold, limits)
    assert missing is not None, "a record without a rejection names an image"
    return _Opened(first, None, missing)


def _decode(image: ImageRef, data: bytes, gold: GoldRecord, limits: PictureLimits) -> _Opened:
    try:
        facts = decode_picture(data, limits).facts()
    except RecordRejected as error:
        return _Opened(image, identify_undecoded(data), Rejection.of(error))
    return _Opened(image, facts, _find_misfit(gold, facts))


def _find_misfit(gold: GoldRecord, facts: PictureFacts) -> Rejection | None:
    """Masks of a picture that has another size by now, or was turned, would lie askew."""
    if gold.size is None or gold.size == (facts.height, facts.width):
        return None
    height, width = gold.size
    turned = ""
    if facts.exif_orientation >= _TURNED and (facts.width, facts.height) == gold.size:
        turned = f", turned by its EXIF orientation {facts.exif_orientation}"
    return Rejection(
        Reason.MASK_WRONG_SIZE,
        f"drawn on {width} x {height} pixels, and the picture has"
        f" {facts.width} x {facts.height}{turned}",
    )


def _make_row(
    record: Record, question: GoldQuestion, opened: _Opened, attempt: Attempt
) -> LabelRow:
    meta = question.origin.to_json()
    single = replace(record, instructions=(question.instruction,), meta_json=meta)
    facts, why = opened.facts, opened.rejection or question.rejection
    if why is None:
        assert facts is not None
        try:
            return _answer(single, question, facts, attempt)
        except RecordRejected as error:
            why = Rejection.of(error)
    (row,) = rejected_rows(single, why, attempt, facts)
    return row


def _answer(
    record: Record, question: GoldQuestion, facts: PictureFacts, attempt: Attempt
) -> LabelRow:
    size = (facts.height, facts.width)
    targets = tuple(
        _make_target(index, target, target.shape.cut(size))
        for index, target in enumerate(question.targets)
    )
    answer = Answer(question.answer, (), targets, malformed=False, truncated=False)
    row = answer_row(record, facts, answer, attempt, latency_ms=0.0)
    named = (
        replace(made, category=gold.category or made.category, category_id=gold.category_id)
        for made, gold in zip(row.targets, question.targets, strict=True)
    )
    row = replace(row, targets=tuple(named))
    if question.ignored is None:
        return row
    if not targets:  # what is there was not told apart, so nothing can be answered
        row = replace(row, status="partial", answer_text=None)
    return _ignore(row, question.ignored.cut(size))


def _make_target(index: int, gold: GoldTarget, mask: RunMask) -> Target:
    return Target(index, gold.phrase, gold.span, gold.phrase_source, mask, _CERTAIN)


def _ignore(row: LabelRow, region: RunMask) -> LabelRow:
    """Puts the pixels that don't count behind the targets: they are no part of the answer."""
    if region.area == 0:
        return row
    nobody = Target(len(row.targets), None, None, "none", region, _CERTAIN)
    (target,) = target_rows([nobody], (), row.result_id)
    flagged = replace(target, flags=(IGNORE_REGION,))
    targets = (*row.targets, flagged)
    return replace(
        row, targets=targets, n_targets=len(targets), qa_flags=_collect_flags(row, targets)
    )


def _collect_flags(row: LabelRow, targets: Sequence[TargetRow]) -> tuple[str, ...]:
    return tuple(sorted({*row.qa_flags, *(flag for each in targets for flag in each.flags)}))
