"""MUSE's measure as it was released: of the logits of whole masks, held in full.

`workers.scoring.muse` does the same on masks of label tables, and is compared with this.

Letters: P predictions; G truths; M points; h, w = the image's size. Truths may hold 255: such
pixels belong to nothing and count for nothing. Both masks of a pair may be empty; its IoU is 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pixellm.matching import assign, compare_points

IGNORED_PIXEL = 255


@dataclass(frozen=True, slots=True)
class MaskPair:
    """A prediction beside its truth; one of them may be missing, and is empty then.

    Attributes:
        prediction: Index, or None.
        target: Index, or None.
        intersection: Pixels of (background, foreground) that both have.
        union: Pixels of (background, foreground) that either has.
    """

    prediction: int | None
    target: int | None
    intersection: tuple[float, float]
    union: tuple[float, float]


@dataclass(frozen=True, slots=True)
class MaskScores:
    """Scores of many pairs.

    Attributes:
        ciou: All intersections over all unions: large things count more.
        giou: Mean IoU of the pairs: every target counts alike.
        masks: How many the mean was taken over.
    """

    ciou: float
    giou: float
    masks: int


def pairing_cost(pred: Tensor, target: Tensor, points: Tensor) -> Tensor:
    """BCE plus DICE of every prediction with every truth, at the given points.

    Args:
        pred: (P, h, w) logits.
        target: (G, h, w), 1 inside.
        points: (M, 2) points (x, y) in 0..1.

    Returns:
        (P, G) float32.
    """
    if not len(pred) or not len(target):
        return pred.new_zeros(len(pred), len(target), dtype=torch.float32)
    return compare_points(_sample(pred.float(), points), _sample((target == 1).float(), points))


def pair_masks(
    pred: Tensor, target: Tensor, points: Tensor, official: bool = False
) -> tuple[MaskPair, ...]:
    """Pair the masks of one question and count their pixels.

    Args:
        pred: (P, h, w) logits.
        target: (G, h, w), 1 inside, 255 ignored.
        points: (M, 2) points (x, y) in 0..1.
        official: Count a prediction without a truth as the official code does, by its logits
            instead of its pixels, which forgives most of them.

    Returns:
        Matched pairs, then truths without prediction, then predictions without truth.
    """
    matched = assign(pairing_cost(pred, target, points))
    missed = sorted(set(range(len(target))) - {truth for _, truth in matched})
    extra = sorted(set(range(len(pred))) - {guess for guess, _ in matched})
    masks = (pred > 0).float()
    nothing = torch.zeros(pred.shape[1:], device=pred.device)
    lonely = pred.float() if official else masks
    return (
        *(MaskPair(p, g, *_count(masks[p], target[g])) for p, g in matched),
        *(MaskPair(None, g, *_count(nothing, target[g])) for g in missed),
        *(MaskPair(p, None, *_count(lonely[p], nothing)) for p in extra),
    )


def score_pairs(pairs: Sequence[MaskPair], masks: int | None = None) -> MaskScores:
    """Compute cIoU and gIoU.

    Args:
        pairs: Of all questions and images.
        masks: What gIoU is a mean over, where it isn't the number of pairs: the official code
            takes the sum over images of max(predictions, truths) of all their questions, which
            can be less and lets gIoU exceed 1.
    """
    if masks is None:
        masks = len(pairs)
    intersection = sum(pair.intersection[1] for pair in pairs)
    union = sum(pair.union[1] for pair in pairs)
    giou = sum(map(_iou, pairs)) / masks if masks else 0.0
    return MaskScores(intersection / (union + 1e-10), giou, masks)


def _iou(pair: MaskPair) -> float:
    return pair.intersection[1] / (pair.union[1] + 1e-5) if pair.union[1] else 1.0


def _sample(masks: Tensor, points: Tensor) -> Tensor:
    """(N, h, w) masks at (M, 2) points -> (N, M), bilinear, zero beyond the border."""
    grid = (2 * points.to(masks) - 1)[None, None]  # (1, 1, M, 2), the image spans -1..1
    return F.grid_sample(masks[None], grid, mode="bilinear", align_corners=False)[0, :, 0]


def _count(pred: Tensor, target: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """Intersection and union in pixels, of (background, foreground)."""
    valid = target != IGNORED_PIXEL
    guess, truth = pred[valid].float(), target[valid].float()
    both, ours, theirs = (_bins(one) for one in (guess[guess == truth], guess, truth))
    union = (ours[0] + theirs[0] - both[0], ours[1] + theirs[1] - both[1])
    return both, union


def _bins(values: Tensor) -> tuple[float, float]:
    """How many values lie in [0, 0.5) and in [0.5, 1]; unthresholded ones may lie in neither."""
    return (
        float(((values >= 0) & (values < 0.5)).sum()),
        float(((values >= 0.5) & (values <= 1)).sum()),
    )
