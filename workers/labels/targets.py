"""The masks of an answer -> what a row holds of them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from unicodedata import normalize

from pixellm.answers import Target
from pixellm.run_lengths import RunMask
from workers.labels.calibration import RAW_SCORES, Calibration, score_target
from workers.labels.rle import EncodedMask, encode_masks
from workers.labels.schema import TargetRow

DUPLICATE_IOU = 0.9
"""Two masks of one answer that overlap more are flagged: most often one thing named twice."""

IGNORE_REGION = "ignore_region"
"""The flag of a target that is no mask of the answer: its pixels count neither for nor against."""

_ARTICLE = re.compile(r"^(?:the|an?|this|that|these|those)\s+")
_ID_DIGITS = 32


def target_rows(
    targets: Sequence[Target],
    classes: Sequence[str],
    result_id: str,
    calibration: Calibration | None = None,
) -> tuple[TargetRow, ...]:
    """Encodes and measures the targets of one answer.

    Args:
        targets: with masks of one size.
        classes: the names that the instruction asked to sort them into.
        result_id: of the row.
        calibration: of `score`.
    """
    if not targets:
        return ()
    codes = encode_masks([target.runs for target in targets])
    return tuple(
        _make_target(target, code, classes, result_id, calibration)
        for target, code in zip(targets, codes, strict=True)
    )


def blank_target() -> TargetRow:
    """A target that says nothing; what a reader gets for fields that were not asked for."""
    nowhere = (0.0, 0.0, 0.0, 0.0)
    code = EncodedMask((0, 0), "", 0, nowhere, 0, touches_border=False, max_iou_other=0.0)
    mask = RunMask.empty((0, 0))
    target = Target(0, None, None, "none", mask, 0.0)
    return replace(_make_target(target, code, (), "", None), target_id="", flags=())


def is_region(target: TargetRow) -> bool:
    """Whether it is a region to ignore, and no mask of the answer."""
    return IGNORE_REGION in target.flags


def normalise_phrase(phrase: str) -> str:
    """One spelling for what is surely the same name: `The red  Mug.` -> `red mug`."""
    words = " ".join(normalize("NFC", phrase.casefold()).split()).strip(" .,;:!?\"'()[]")
    return _ARTICLE.sub("", words)


def _make_target(
    target: Target,
    code: EncodedMask,
    classes: Sequence[str],
    result_id: str,
    calibration: Calibration | None,
) -> TargetRow:
    span_start, span_end = target.span or (None, None)
    identity = f"{result_id}\n{target.index}".encode()
    return TargetRow(
        target_index=target.index,
        target_id=sha256(identity).hexdigest()[:_ID_DIGITS],
        phrase=target.phrase,
        span_start=span_start,
        span_end=span_end,
        phrase_source=target.phrase_source,
        category=_find_category(target.phrase, classes),
        category_id=None,
        bbox=code.bbox,
        area=code.area,
        rle_size=code.size,
        rle_counts=code.counts,
        score=score_target(target, calibration),
        **{name: getattr(target, name) for name in RAW_SCORES},
        n_components=code.n_components,
        touches_border=code.touches_border,
        max_iou_other=code.max_iou_other,
        flags=_flag_target(code),
    )


def _find_category(phrase: str | None, classes: Sequence[str]) -> str | None:
    """The requested class that the phrase names; the only one, if one class was asked for."""
    if len(classes) == 1:
        return classes[0]
    named = normalise_phrase(phrase or "")
    return next((name for name in classes if normalise_phrase(name) == named), None)


def _flag_target(code: EncodedMask) -> tuple[str, ...]:
    found = {"duplicate_mask": code.max_iou_other > DUPLICATE_IOU, "empty_mask": code.area == 0}
    return tuple(name for name, is_so in found.items() if is_so)
