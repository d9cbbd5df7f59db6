"""True and predicted masks -> pairs of one truth and one prediction, and their pixels.

Letters: P predictions, T truths.

Masks are paired one to one so that the sum of their IoUs is largest, as many pairs as there can be:
two masks that share no pixel may form a pair, of IoU 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from pixellm.run_lengths import Numbers, RunMask
from workers.scoring.regions import common_areas

HIT = 0.5
"""A truth is found by a prediction whose IoU with it is larger."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A truth beside its prediction; one of them may be missing."""

    truth: int | None
    """its number among the truths of the question"""
    prediction: int | None
    both: int
    """pixels that both have"""
    either: int
    """pixels that one of them has"""

    @property
    def iou(self) -> float:
        """0 to 1; two empty masks are the same, and a lonely one is wrong even when it is empty."""
        if self.truth is None or self.prediction is None:
            return 0.0
        return self.both / self.either if self.either else 1.0

    @property
    def is_hit(self) -> bool:
        """Whether the truth is found."""
        return self.iou > HIT


def pair_up(truths: Sequence[RunMask], predictions: Sequence[RunMask]) -> tuple[Pair, ...]:
    """Pairs masks one to one, so that the sum of the IoUs is largest.

    Returns:
        Matched ones, then truths without prediction, then predictions without truth.
    """
    common = common_areas(predictions, truths)
    ious = _ious(truths, predictions, common)
    rows, columns = linear_sum_assignment(ious, maximize=True)
    matched = zip(rows.tolist(), columns.tolist(), strict=True)
    return make_pairs(truths, predictions, matched, common)


def make_pairs(
    truths: Sequence[RunMask],
    predictions: Sequence[RunMask],
    matched: Iterable[tuple[int, int]],
    common: Numbers | None = None,
) -> tuple[Pair, ...]:
    """Counts the pixels of pairs that are settled, and of the masks that are left.

    Args:
        truths: T masks.
        predictions: P masks.
        matched: numbers of a prediction and its truth.
        common: (P, T), if that has been counted.
    """
    couples = list(matched)
    common = common_areas(predictions, truths) if common is None else common
    true, said = _areas(truths), _areas(predictions)
    missed = sorted(set(range(len(truths))) - {truth for _, truth in couples})
    extra = sorted(set(range(len(predictions))) - {prediction for prediction, _ in couples})
    shared = [int(common[couple]) for couple in couples]
    return (
        *(
            Pair(t, p, both, true[t] + said[p] - both)
            for (p, t), both in zip(couples, shared, strict=True)
        ),
        *(Pair(number, None, 0, true[number]) for number in missed),
        *(Pair(None, number, 0, said[number]) for number in extra),
    )


def _ious(
    truths: Sequence[RunMask], predictions: Sequence[RunMask], common: Numbers
) -> NDArray[np.float64]:
    """(P, T); two empty masks are the same."""
    either = np.array(_areas(predictions))[:, None] + np.array(_areas(truths))[None] - common
    return np.divide(common, either, out=np.ones(common.shape), where=either > 0)


def _areas(masks: Sequence[RunMask]) -> list[int]:
    return [mask.area for mask in masks]
