"""Which predicted mask is meant for which true one, when nobody says it (as MUSE pairs them).

Letters: P predictions; G truths; M points.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

POINTS = 12544
"""Points that masks are compared at to pair them, 112 x 112."""


def draw_points(count: int = POINTS, seed: int = 0) -> Tensor:
    """Draw (count, 2) float32 points (x, y) in 0..1; a seed always gives the same ones."""
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))


def compare_points(logits: Tensor, truths: Tensor) -> Tensor:
    """BCE plus DICE of every prediction with every truth, which were looked at in the same points.

    Args:
        logits: (P, M).
        truths: (G, M), 1 inside.

    Returns:
        (P, G).
    """
    inside_cost = F.softplus(-logits) @ truths.T
    outside_cost = F.softplus(logits) @ (1 - truths).T
    bce = (inside_cost + outside_cost) / logits.shape[1]
    probabilities = logits.sigmoid()
    both = 2 * probabilities @ truths.T
    either = probabilities.sum(1)[:, None] + truths.sum(1)[None]
    return bce + 1 - (both + 1) / (either + 1)


def assign(cost: Tensor) -> list[tuple[int, int]]:
    """Pair predictions with truths at the least total cost; (P, G) -> (prediction, truth) pairs."""
    rows, columns = linear_sum_assignment(cost.detach().cpu().numpy())
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]
