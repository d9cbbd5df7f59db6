"""What PixelLM learns from: the words of the answer, and the masks of its targets.

Letters: B rows; T positions; V vocabulary; n_i = masks of image i; h, w = its original size.
Predicted and true masks are paired by order. Mask losses are averaged over all masks of a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pixellm.prompts import IGNORE_INDEX

DICE_SCALE = 1000
"""Pixels are counted in thousands, so that DICE's smoothing term weighs what it did in training."""


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How much each loss counts.

    Attributes:
        ce: Words of the answer.
        bce: Every pixel of a mask.
        dice: Overlap of a mask with its truth.
        refinement: Target refinement, BCE once more where masks of one question overlap. 0 turns
            it off, as in the released code; the paper has the weight of `bce`.
    """

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    refinement: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class MaskLosses:
    """Weighted mask losses of a batch, scalars with a graph."""

    bce: Tensor
    dice: Tensor
    refinement: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Weighted losses of a batch, scalars with a graph; `total` is the sum of the others."""

    total: Tensor
    ce: Tensor
    bce: Tensor
    dice: Tensor
    refinement: Tensor


def sum_losses(ce: Tensor, masks: MaskLosses, weights: LossWeights) -> Losses:
    """Weigh the words' loss and add everything up."""
    words = weights.ce * ce
    total = words + masks.bce + masks.dice + masks.refinement
    return Losses(total, words, masks.bce, masks.dice, masks.refinement)


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of every learned position of the batch.

    Args:
        logits: (B, T, V).
        labels: (B, T) token ids, not shifted; `IGNORE_INDEX` where nothing is learned.

    Returns:
        A scalar; 0 where nothing is learned at all.
    """
    wanted = labels[:, 1:]
    learned = wanted != IGNORE_INDEX
    # Picking first keeps the float32 copy small: most positions are image and question.
    chosen = logits[:, :-1][learned].float()
    if chosen.shape[0] == 0:
        return chosen.sum()
    return F.cross_entropy(chosen, wanted[learned])


def mask_losses(
    pred: Sequence[Tensor],
    target: Sequence[Tensor],
    masks_per_question: Sequence[Sequence[int]],
    weights: LossWeights,
) -> MaskLosses:
    """Compare the masks of a batch with their truths.

    Args:
        pred: For each image (n_i, h, w) logits; n_i may be 0.
        target: For each image (n_i, h, w); every value above 0 is inside.
        masks_per_question: For each image how many masks each question has, in order.
        weights: Of the losses.

    Raises:
        ValueError: There is no image, or the counts of an image contradict each other.
    """
    _check_counts(pred, target, masks_per_question)
    logits = [one.float() for one in pred]
    # Parts of an object may have been added up, so that a truth holds 2 where they meet.
    truths = [(one > 0).float() for one in target]
    refinement = torch.stack([one.sum() * 0 for one in logits]).sum()
    if weights.refinement:
        doubled = [_doubled(*pair) for pair in zip(logits, masks_per_question, strict=True)]
        refinement = _average(_refinement, logits, truths, doubled) * weights.refinement
    return MaskLosses(
        bce=_average(_bce, logits, truths) * weights.bce,
        dice=_average(_dice, logits, truths) * weights.dice,
        refinement=refinement,
    )


def _average(loss: Callable[..., Tensor], *images: Sequence[Tensor]) -> Tensor:
    """Mean over all masks of the batch, in the official order of rounding.

    Args:
        loss: Gives (n_i,) from one (n_i, h, w) tensor of each sequence.
        images: Sequences of tensors, an entry an image.
    """
    total = torch.zeros((), device=images[0][0].device)
    count = 0
    for tensors in zip(*images, strict=True):
        masks = len(tensors[0])
        # An image without masks adds 0 but stays in the graph: DDP waits for every gradient.
        total = total + loss(*tensors).sum() / (masks + 1e-8) * masks
        count += masks
    return total / (count + 1e-8)


def _bce(logits: Tensor, truth: Tensor) -> Tensor:
    """(n, h, w) logits and truth -> (n,)."""
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return loss.flatten(1).mean(1)


def _dice(logits: Tensor, truth: Tensor) -> Tensor:
    """(n, h, w) logits and truth -> (n,)."""
    inside, truth = logits.sigmoid().flatten(1), truth.flatten(1)
    both = 2 * (inside / DICE_SCALE * truth).sum(1)
    either = (inside / DICE_SCALE).sum(1) + (truth / DICE_SCALE).sum(1)
    return 1 - (both + 1e-6) / (either + 1e-6)


def _refinement(logits: Tensor, truth: Tensor, doubled: Tensor) -> Tensor:
    """(n, h, w) logits, truth and overlap -> (n,): BCE counts where masks overlap."""
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (loss * doubled).flatten(1).mean(1)


def _doubled(logits: Tensor, counts: Sequence[int]) -> Tensor:
    """(n, h, w) logits -> (n, h, w) 0 or 1: at least two masks of the question are there."""
    overlaps = []
    for question in torch.split(logits.detach(), list(counts)):
        overlap = (question > 0).sum(0, keepdim=True) >= 2
        overlaps.append(overlap.expand_as(question))
    return torch.cat(overlaps).float() if overlaps else torch.zeros_like(logits)


def _check_counts(
    pred: Sequence[Tensor], target: Sequence[Tensor], masks_per_question: Sequence[Sequence[int]]
) -> None:
    if not pred or not len(pred) == len(target) == len(masks_per_question):
        raise ValueError(
            f"a batch needs at least one image, and predictions, truths and counts of each; it has "
            f"{len(pred)}, {len(target)} and {len(masks_per_question)}"
        )
    for at, (one, truth, counts) in enumerate(zip(pred, target, masks_per_question, strict=True)):
        if one.shape != truth.shape or sum(counts) != len(one):
            raise ValueError(
                f"image {at} of the batch: predictions {tuple(one.shape)!r}, truths "
                f"{tuple(truth.shape)!r} and masks per question {list(counts)!r} contradict each "
                "other; was a token group cut off?"
            )
