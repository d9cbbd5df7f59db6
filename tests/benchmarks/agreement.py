"""Whether two contestants said the same: the ids, and the pixels of all masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.baselines import Said

LEAST_IOU = 0.999
"""Of all masks together. What is allowed are pixels on the very edge, where logits round."""
STRAY_PIXELS = 4
"""Of one mask may differ, whatever its IoU: one pixel of a mask of 100 is a hundredth."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How one contestant's answers compare with another's."""

    answers: int
    other_ids: int
    """answers whose ids differ; their masks are not compared"""
    masks: int
    both: int
    """pixels that are set in both, of all masks"""
    either: int
    """pixels that are set in one of the two"""
    strays: tuple[int, ...]
    """pixels that differ, of each mask that is not as it should be"""
    given: bool = False
    """whether the ids were given, so that they can't differ"""

    @property
    def iou(self) -> float:
        """Of all masks together; 1 when all are empty."""
        return self.both / self.either if self.either else 1.0

    @property
    def holds(self) -> bool:
        """Whether both said the same; without any pixel to compare, nobody knows."""
        alike = not self.other_ids and not self.strays and self.iou > LEAST_IOU
        return alike and self.either > 0

    def __str__(self) -> str:
        if self.holds:
            ids = "given ids" if self.given else "same ids"
            return f"{ids}, IoU {self.iou:.5f} of {self.masks} masks"
        found = f"{self.other_ids} of {self.answers} answers have other ids"
        return f"FAILED: {found}, IoU {self.iou:.5f} of {self.masks} masks, {len(self.strays)} off"


def compare(ours: Sequence[Said], theirs: Sequence[Said], *, given: bool = False) -> Agreement:
    """Compares the answers to the same questions; `given` as in `Agreement`."""
    same = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.ids == b.ids]
    pairs = [pair for a, b in same for pair in zip(a.masks, b.masks, strict=True)]
    both = [int((a & b).sum()) for a, b in pairs]
    either = [int((a | b).sum()) for a, b in pairs]
    return Agreement(
        answers=len(ours),
        other_ids=len(ours) - len(same),
        masks=len(pairs),
        both=int(np.sum(both, dtype=int)),
        either=int(np.sum(either, dtype=int)),
        strays=tuple(e - b for b, e in zip(both, either, strict=True) if _is_off(b, e)),
        given=given,
    )


def _is_off(both: int, either: int) -> bool:
    return either - both > STRAY_PIXELS and both <= LEAST_IOU * either
