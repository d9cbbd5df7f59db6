"""Parts that only training has: they teach the boxes of a small PixelLM apart, then go.

A large PixelLM starts from a trained CLIP and a trained LLaMA. A small one has neither, so its
vision tower first learns to describe every patch, its decoder learns on queries made from the
drawing's description, and its language model learns on image tokens made from that description.

Shapes: B images, P patches per side, C CLIP width, G language model grid side, H language model
width, N targets, S scales, D decoder width, A attribute codes of a thing.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.drawn.bank import ATTRIBUTES, Described
from pixellm.drawn.start import one_thread

FREQUENCIES = 4
"""Octaves of the position code: the finest wave is 1/8 of the side, one language model cell."""


def position_code(where: Tensor) -> Tensor:
    """(..., 3) x, y, radius in 0..1 -> (..., 3 + 4 * FREQUENCIES) smooth code."""
    octaves = 2.0 ** torch.arange(FREQUENCIES, device=where.device) * math.pi
    angle = where[..., :2, None] * octaves  # (..., 2, FREQUENCIES)
    waves = torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)
    linear = torch.cat([2 * where[..., :2] - 1, 8 * where[..., 2:] - 1], dim=-1)
    return torch.cat([linear, waves], dim=-1)


CODE_WIDTH = 3 + 4 * FREQUENCIES


class DenseHead(nn.Module):
    """What every patch, or every language model cell, shows: attributes, centre and radius."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [1, *(len(words) for words in ATTRIBUTES), 3]
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, sum(self.sizes))
        )

    def loss(self, features: Tensor, thing_of: Tensor, described: Described) -> Tensor:
        """Mean loss of presence, attributes, offset and radius.

        Args:
            features: (B, M, C) of M places.
            thing_of: (B, M) long, index of the thing at each place in `described`, or -1.
            described: the things of the images, flattened.
        """
        presence, *attributes, where = self.layers(features).split(self.sizes, dim=-1)
        there = thing_of >= 0
        loss = F.binary_cross_entropy_with_logits(presence[..., 0], there.to(presence))
        thing = thing_of[there]
        for column, logits in enumerate(attributes):
            loss = loss + F.cross_entropy(logits[there], described.codes[thing, column])
        error = where[there] - described.where[thing]
        return loss + 8 * error.abs().mean()


class OracleQuery(nn.Module):
    """A mask query from a thing's description, for training the decoder without language."""

    def __init__(self, scales: int, width: int) -> None:
        super().__init__()
        self.scales = scales
        one_hot = sum(len(words) for words in ATTRIBUTES)
        self.layers = nn.Sequential(
            nn.Linear(one_hot + CODE_WIDTH, 256), nn.ReLU(), nn.Linear(256, scales * width)
        )

    def forward(self, codes: Tensor, where: Tensor) -> Tensor:
        """(N, A) attribute codes, (N, 3) places -> (N, S, D)."""
        parts = [
            F.one_hot(codes[:, column], len(words)).to(where)
            for column, words in enumerate(ATTRIBUTES)
        ]
        joined = self.layers(torch.cat([*parts, position_code(where)], dim=-1))
        return joined.unflatten(-1, (self.scales, -1))


class SymbolicImage(nn.Module):
    """Image tokens written from the drawing's description instead of seen by the vision tower.

    The token of the cell in which a thing's centre lies is the sum of the embeddings of the words
    that describe it, plus its place. All other cells are background.
    """

    words: Tensor

    def __init__(self, hidden: int, grid: int, words: Tensor) -> None:
        """Args: hidden: H; grid: G; words: (A, most) token id of each word."""
        super().__init__()
        self.grid = grid
        self.register_buffer("words", words)
        self.place = nn.Linear(CODE_WIDTH, hidden)
        self.background = nn.Parameter(torch.zeros(hidden))

    def forward(self, embedding: nn.Embedding, cells: Tensor, described: Described) -> Tensor:
        """(B, G * G) thing of each cell or -1 -> (B, G * G, H)."""
        side = torch.arange(self.grid, device=cells.device)
        y, x = torch.meshgrid(side, side, indexing="ij")
        middle = torch.stack([x, y, torch.zeros_like(x)], dim=-1).reshape(-1, 3)
        empty = (middle + torch.tensor([0.5, 0.5, 0.0], device=cells.device)) / self.grid
        tokens = (self.background + self.place(position_code(empty))).expand(len(cells), -1, -1)
        there = cells >= 0
        thing = cells[there]
        named = self.place(position_code(described.where[thing]))
        for column in range(len(ATTRIBUTES)):
            named = named + embedding(self.words[column, described.codes[thing, column]])
        return tokens.index_put((there,), named)


class Pointer(nn.Module):
    """Which cells a text position means: a dot product of its state and the image tokens.

    It starts as plain likeness. With the usual small random weights on both sides the product would
    start near zero and so would its gradient.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        with one_thread():
            frame = torch.linalg.qr(torch.randn(hidden, hidden))[0]
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.bias = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            self.query.weight.copy_(frame)
            self.key.weight.copy_(frame)

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """(N, H) states, (N, M, H) image tokens of each -> (N, M) logits."""
        query = self.query(F.rms_norm(states, states.shape[-1:]))
        key = self.key(F.rms_norm(tokens, tokens.shape[-1:]))
        return torch.einsum("nh,nmh->nm", query, key) / query.shape[-1] ** 0.5 + self.bias


class Pointers(nn.Module):
    """The places of a conversation that point at cells, and how deep in the language model."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.anchor = Pointer(hidden)  # behind the question, half-way: what a relation refers to
        self.early_set = Pointer(hidden)  # behind the question, three quarters deep: all targets
        self.set = Pointer(hidden)  # the same at the end
        self.group = Pointer(hidden)  # before a target's first codebook token: the target
        self.rest = Pointer(hidden)  # behind its tokens: what is still to be named
