"""A stage of the small model's training: what learns in it, from what, and how fast.

It runs on `pixellm.loop.Loop`, as fine-tuning does; only its batches are other ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pixellm.loop import Schedule
from pixellm.model import PixelLM

IMAGES = 8
"""Scenes of a batch, for which the recipe's rates are."""
Losses = Callable[[np.random.Generator, float], Mapping[str, Tensor]]
"""The weighted parts of a loss, from what a batch is drawn with and the share of steps done."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A batch of a stage. Scenes are drawn where they are learned from: here stands only when."""

    stage: str
    step: int
    """of the stage, from 0"""
    steps: int
    """of the whole stage"""
    batch: int = 0
    """which of the step's: each has scenes of its own, whoever learns from it"""

    @property
    def progress(self) -> float:
        """Share of the steps that are done."""
        return self.step / self.steps

    def rng(self) -> np.random.Generator:
        """What the batch is drawn with: it follows from the turn alone, so a run can go on."""
        # stages are told apart by the lengths of their names: words, align and joint, of five
        # letters each, share their draws
        return np.random.default_rng([self.step, len(self.stage), self.batch])


class Lessons(nn.Module):
    """Parts that learn, and what they learn by; called with a turn.

    Args:
        parts: of the model, and those that only training has.
        losses: of them.
    """

    def __init__(self, parts: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.parts, self._losses = parts, losses

    def forward(self, turn: Turn) -> dict[str, Tensor]:
        """The weighted parts of the loss, scalars with a graph."""
        return dict(self._losses(turn.rng(), turn.progress))


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A stage, ready to begin."""

    name: str
    model: PixelLM
    """whose boxes learn in it"""
    lessons: Lessons
    parts: nn.Module
    """all that the losses are made with: what learns, and what stays as it is"""
    schedule: Schedule
    scenes: int
    """of a batch"""
    evaluate: Callable[[], Mapping[str, float]]
    """numbers for the curve, of the weights as they are"""

    def to(self, device: torch.device) -> None:
        """Moves all of it to where it learns: begun where weights are drawn alike everywhere."""
        self.model.to(device)
        self.parts.to(device)

    def trained(self) -> dict[str, nn.Parameter]:
        """All that learns, by its name among the stage's parts."""
        named = self.lessons.parts.named_parameters()
        return {name: each for name, each in named if each.requires_grad}


@torch.no_grad()
def fill(parts: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies what an earlier stage learned into parts of the same names.

    Raises:
        KeyError: there is no such part.
    """
    own = dict(parts.named_parameters())
    for name, value in weights.items():
        own[name].copy_(value)
