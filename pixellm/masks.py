"""From the decoder's small masks to masks of the original image, as logits all the way.

Letters: N masks; S scales; h0, w0 = the original size; h, w = the resized, valid part of the
model's square; side = that square. A pixel belongs to a mask where its logit is above 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def combine_scales(scales: Sequence[Tensor], low_side: int) -> Tensor:
    """Add the masks of all scales with equal weights 1/S.

    Args:
        scales: S tensors (N, 1, ?, ?) of mask logits, coarse to fine.
        low_side: Pixels; `PixelLMConfig.mask_side`, the size that the weights were trained with.

    Returns:
        (N, low_side, low_side) logits, in the dtype of the scales.
    """
    weight = 1 / len(scales)
    planes = [weight * _resize(scale[:, 0], (low_side, low_side)) for scale in scales]
    return torch.stack(planes).sum(0)


def postprocess_masks(
    low: Tensor, resized: tuple[int, int], original: tuple[int, int], side: int
) -> Tensor:
    """Bring masks into the frame of the original image.

    Args:
        low: (N, ?, ?) logits over the model's square, padding included.
        resized: (h, w) of the valid part.
        original: (h0, w0).
        side: The side of the model's square, in pixels.

    Returns:
        (N, h0, w0) logits, in the dtype of `low`. N may be 0.
    """
    square = _resize(low, (side, side))
    return _resize(square[:, : resized[0], : resized[1]], original)


def mask_scores(logits: Tensor) -> Tensor:
    """Mean probability inside each mask; 0 for an empty one.

    Args:
        logits: (N, h0, w0).

    Returns:
        (N,) float32 between 0 and 1.
    """
    flat = logits.flatten(1).float()
    inside = flat > 0
    return (flat.sigmoid() * inside).sum(1) / (inside.sum(1) + 1e-6)


def _resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    # In float32: half precision moves the borders of large masks.
    resized = F.interpolate(masks[:, None].float(), size, mode="bilinear", align_corners=False)
    return resized[:, 0].to(masks.dtype)
