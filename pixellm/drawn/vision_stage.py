"""The vision stage: its tower learns to describe what it sees, the decoder to cut it out."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.drawn.bank import Bank, DrawnBatch, find_cells, masks_of, overlaps, patch_owners
from pixellm.drawn.heads import DenseHead, OracleQuery
from pixellm.drawn.stages import IMAGES
from pixellm.losses import LossWeights, mask_losses
from pixellm.masks import combine_scales
from pixellm.model import PixelLM
from pixellm.vision import shrink_for_language

TARGETS = 3
"""Things of a scene whose mask is decoded in a step."""


class SeeingParts(nn.Module):
    """What this stage trains: boxes of the model, and heads that only training has."""

    def __init__(self, model: PixelLM) -> None:
        super().__init__()
        config = model.config
        width = int(config.clip["hidden_size"])
        self.vision = model.vision
        self.mask_projector = model.mask_projector
        self.decoder = model.decoder
        self.patch_head = DenseHead(width)
        self.cell_head = DenseHead(width)
        self.oracle = OracleQuery(config.scales, config.decoder.width)

    @property
    def device(self) -> torch.device:
        """Where they learn."""
        return self.vision.clip.embeddings.class_embedding.device


class VisionStage:
    """Losses and scores of the vision stage.

    Args:
        model: its vision tower, mask projector and decoder learn.
        bank: scenes to train on.
        held_out: scenes for the curve.
        images: scenes of a batch.
        refinement: weight of the target refinement loss, the things of a scene being one question.
    """

    def __init__(
        self,
        model: PixelLM,
        bank: Bank,
        held_out: Bank,
        images: int = IMAGES,
        refinement: float = 0.0,
    ) -> None:
        self.config, self.bank, self.held_out, self.images = model.config, bank, held_out, images
        self.refinement = refinement
        self.parts = SeeingParts(model)

    def losses(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        """The weighted losses of a random batch."""
        batch = self.bank.sample(rng, self.images).to(self.parts.device)
        features, owners = self._features(self.bank, batch), self.bank.owners(batch)
        patches = patch_owners(owners, batch.things, self.config.grid)
        cells = find_cells(batch.scenes, batch.things, self.config.llm_grid).thing
        small = shrink_for_language(features[0], self.config.llm_grid)
        return {
            "patches": 0.7 * self.parts.patch_head.loss(features[0], patches, batch.things),
            "cells": 1.0 * self.parts.cell_head.loss(small, cells, batch.things),
        } | self._mask_losses(rng, batch, features, owners)

    def cutting(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        """The same without descriptions, for a tower that has learned to give them."""
        batch = self.bank.sample(rng, self.images).to(self.parts.device)
        features, owners = self._features(self.bank, batch), self.bank.owners(batch)
        return self._mask_losses(rng, batch, features, owners)

    def _mask_losses(
        self,
        rng: np.random.Generator,
        batch: DrawnBatch,
        features: list[Tensor],
        owners: Tensor,
    ) -> dict[str, Tensor]:
        chosen = _choose(rng, batch)
        logits = self._decode(features, batch, chosen)
        truth = masks_of(owners, batch.things, chosen).float()
        image = batch.things.image_of[chosen]
        masks = mask_losses(
            [logits[image == i] for i in range(len(batch.scenes))],
            [truth[image == i] for i in range(len(batch.scenes))],
            [[int((image == i).sum())] for i in range(len(batch.scenes))],
            LossWeights(refinement=self.refinement),
        )
        losses = {"bce": masks.bce, "dice": masks.dice}
        return losses | ({"refinement": masks.refinement} if self.refinement else {})

    @torch.no_grad()
    def evaluate(self) -> Mapping[str, float]:
        """Mask IoU and the share of cells described right, on scenes that aren't trained on."""
        ious, right = [], []
        for start in range(0, self.held_out.count, IMAGES):
            index = np.arange(start, min(start + IMAGES, self.held_out.count))
            batch = self.held_out.take(index, np.zeros(len(index), bool)).to(self.parts.device)
            features = self._features(self.held_out, batch)
            every = torch.arange(len(batch.things.codes), device=self.parts.device)
            seen = self._decode(features, batch, every) > 0
            truth = masks_of(self.held_out.owners(batch), batch.things, every)
            ious.extend(overlaps(seen, truth).tolist())
            right.extend(self._described(features, batch).tolist())
        return {"iou": float(np.mean(ious)), "cells_right": float(np.mean(right))}

    def _described(self, features: list[Tensor], batch: DrawnBatch) -> Tensor:
        """(M,) bool: all attributes of a thing read right from its cell."""
        cells = find_cells(batch.scenes, batch.things, self.config.llm_grid).thing
        head = self.parts.cell_head
        out = head.layers(shrink_for_language(features[0], self.config.llm_grid))[cells >= 0]
        _, *attributes, _ = out.split(head.sizes, dim=-1)
        said = torch.stack([logits.argmax(-1) for logits in attributes], dim=1)
        return (said == batch.things.codes[cells[cells >= 0]]).all(1).float()

    def _features(self, bank: Bank, batch: DrawnBatch) -> list[Tensor]:
        pixels = bank.pixels(batch)
        return self.parts.vision(pixels, torch.ones_like(pixels[:, 0]))

    def _decode(self, features: list[Tensor], batch: DrawnBatch, chosen: Tensor) -> Tensor:
        """(N,) things -> (N, s, s) mask logits at the canvas' size."""
        maps = self.parts.decoder.maps([self.parts.mask_projector(f) for f in features])
        queries = self.parts.oracle(batch.things.codes[chosen], batch.things.where[chosen])
        scales = self.parts.decoder(maps, queries, batch.things.image_of[chosen])
        low = combine_scales([scale.logits for scale in scales], self.config.mask_side)
        return F.interpolate(
            low[:, None], size=(self.config.image_side,) * 2, mode="bilinear", align_corners=False
        )[:, 0]


def _choose(rng: np.random.Generator, batch: DrawnBatch) -> Tensor:
    """Up to TARGETS things of every scene, as flattened indices."""
    chosen = [
        start + rng.permutation(len(scene.things))[:TARGETS]
        for start, scene in zip(batch.things.first, batch.scenes, strict=True)
    ]
    return torch.from_numpy(np.concatenate(chosen)).to(batch.things.image_of.device)
