"""The segmentation codebook: groups of tokens whose hidden states become mask queries.

One target is S * K tokens in a row: K for each of S image scales. Each token's vector is the hidden
state that *predicted* it; the K vectors of a scale are fused into one query (paper, section 3.2).

Shapes: N targets, S scales, K tokens per scale, H language model width, D decoder width.
"""

import torch
from torch import Tensor, nn


class Codebook(nn.Module):
    """Turns the hidden states of token groups into decoder queries."""

    def __init__(self, hidden: int, width: int, scales: int, tokens_per_scale: int) -> None:
        super().__init__()
        self.scales, self.tokens_per_scale = scales, tokens_per_scale
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def fuse(self, vectors: Tensor) -> Tensor:
        """(N * S * K, D) vectors in reading order -> (N, S, D) queries.

        The published constant is 1 / (S * K), not 1 / K, and a lone token is not scaled (Q3). It is
        rounded to the working precision first, as the official parameter is.
        """
        groups = vectors.reshape(-1, self.scales, self.tokens_per_scale, vectors.shape[-1])
        if self.tokens_per_scale == 1:
            return groups[:, :, 0]
        share = torch.tensor(1 / (self.scales * self.tokens_per_scale), dtype=vectors.dtype)
        return (groups * share.item()).sum(dim=2)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N * S * K, H) hidden states of whole groups -> (N, S, D) queries."""
        return self.fuse(self.head(hidden))


def predicting_positions(ids: Tensor, seg_ids: Tensor) -> Tensor:
    """(B, T) ids -> (B, T) bool: True where the *next* id is a segmentation token (Q4)."""
    is_seg = torch.isin(ids, seg_ids)
    return torch.cat([is_seg[:, 1:], torch.zeros_like(is_seg[:, :1])], dim=1)
