"""The order of masks that no word of an answer tells apart: from left to right, as they are seen.

"They are [SEG], [SEG] and [SEG]." fits a picture in any order. A model that is told another one
each time can only learn the mean of all of them, for each mark.
"""

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor

from pixellm.answers import SEG_MARK

Order = Literal["left-to-right", "as-labelled"]
_BETWEEN = frozenset({", ", " and ", ", and ", ",", " "})
"""What stands between marks that are only listed."""


def are_alike(answer: str, names: Collection[object]) -> bool:
    """Whether nothing tells the masks of an answer apart.

    Args:
        answer: its text: all marks must stand in one list, without a word of their own.
        names: what the masks are called, all of them the same.
    """
    between = answer.split(SEG_MARK)[1:-1]
    return bool(between) and len(set(names)) == 1 and _BETWEEN.issuperset(between)


def from_left(masks: Tensor) -> Tensor:
    """(n, h, w) bool, none of them empty -> the same, by the columns of their middles."""
    columns = torch.arange(masks.shape[-1], dtype=torch.float64)
    of_column = masks.sum(1, dtype=torch.float64)  # (n, w) pixels
    middles = (of_column * columns).sum(1) / of_column.sum(1)
    return masks[middles.argsort(stable=True)]
