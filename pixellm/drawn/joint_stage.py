"""Stages 3 and 4: what is seen takes the place of what was written, and answers get their masks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.drawn.bank import Bank, Cells, DrawnBatch, find_cells, masks_of
from pixellm.drawn.conversations import Conversations, Packed
from pixellm.drawn.language_stage import (
    SpeakingParts,
    answer_scores,
    read_packed,
    text_losses,
)
from pixellm.drawn.practice import practise
from pixellm.drawn.questions import ask
from pixellm.drawn.stages import IMAGES
from pixellm.drawn.vision_stage import SeeingParts
from pixellm.losses import LossWeights, MaskLosses, mask_losses
from pixellm.masks import combine_scales
from pixellm.model import EncodedImages, PixelLM
from pixellm.tokenizer import Tokenizer
from pixellm.vision import shrink_for_language

ALIGN_IMAGES = 16
"""Scenes of a batch while only the projector learns, which costs little."""
QUESTIONS = 8
"""About each scene of a batch."""
MASK_IMAGES, MASKS = 2, 10
"""Scenes, and targets in them, whose masks are decoded in a step. All others learn from the
oracle's query alone, which costs a hundredth."""
ALIGN_WEIGHT, ORACLE_WEIGHT = 0.2, 1.0
"""Weights of the training-only losses: seen tokens like written ones, queries like the oracle's."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch as the model's frozen or trained eyes see it."""

    batch: DrawnBatch
    features: list[Tensor]
    tokens: Tensor
    cells: Cells


class JointParts(nn.Module):
    """What the joint stages train, as the first two stages left it."""

    def __init__(self, model: PixelLM, seeing: SeeingParts, speaking: SpeakingParts) -> None:
        super().__init__()
        self.vision = seeing.vision
        self.mask_projector = seeing.mask_projector
        self.decoder = seeing.decoder
        self.oracle = seeing.oracle
        self.language = speaking.language
        self.symbols = speaking.symbols
        self.pointers = speaking.pointers
        self.image_projector = model.image_projector
        self.codebook = model.codebook
        for frozen in (self.symbols, self.oracle, self.vision):  # the paper freezes its CLIP too
            frozen.requires_grad_(False)


class JointStage:
    """Losses and scores of the joint stages.

    Args:
        model: for its sizes.
        tokenizer: of the language model.
        parts: what learns.
        banks: scenes to train on, and some for the curve.
    """

    def __init__(
        self,
        model: PixelLM,
        tokenizer: Tokenizer,
        parts: JointParts,
        banks: tuple[Bank, Bank],
    ) -> None:
        self.model, self.tokenizer, self.parts = model, tokenizer, parts
        self.bank, self.held_out = banks
        self.conversations = Conversations(tokenizer, model.config.system_text or "")
        self.head = torch.tensor(self.conversations.head())

    def alignment(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        """The first steps: only the projector learns, to write what the symbols write."""
        return {"align": self._align(self._look(self.bank, self.bank.sample(rng, ALIGN_IMAGES)))}

    def losses(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        """The weighted losses of a random batch of scenes and questions."""
        seen = self._look(self.bank, self.bank.sample(rng, IMAGES))
        questions = [practise(scene, rng, QUESTIONS) for scene in seen.batch.scenes]
        packed = self.conversations.pack(questions, seen.batch.things.first)
        language, pointers = self.parts.language, self.parts.pointers
        shown = torch.ones(seen.tokens.shape[:2], dtype=torch.bool)
        read = read_packed(language, self.head, seen.tokens, packed, shown)
        losses = text_losses(language, pointers, read, seen.tokens, packed, seen.cells)
        losses["align"] = ALIGN_WEIGHT * self._align(seen)
        return losses | self._mask_losses(seen, packed, read.last, rng)

    def _look(self, bank: Bank, batch: DrawnBatch) -> Seen:
        pixels = bank.pixels(batch)
        with torch.no_grad():
            features = self.parts.vision(pixels, torch.ones_like(pixels[:, 0]))
        small = shrink_for_language(features[0], self.model.config.llm_grid)
        cells = find_cells(batch.scenes, batch.things, self.model.config.llm_grid)
        return Seen(batch, features, self.parts.image_projector(small), cells)

    def _align(self, seen: Seen) -> Tensor:
        """Squared distance to the written tokens; cells with things count as much as the rest."""
        with torch.no_grad():
            embedding = self.parts.language.model.embed_tokens
            written = self.parts.symbols(embedding, seen.cells.thing, seen.batch.things)
        error = (seen.tokens - written).square().mean(-1)
        there = seen.cells.thing >= 0
        return error[there].mean() + error[~there].mean()

    def _mask_losses(
        self, seen: Seen, packed: Packed, hidden: Tensor, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        size = self.model.config.group_size
        image, slot = packed.group_at.T
        states = hidden[image[:, None], slot[:, None] + torch.arange(size)]  # (N, S * K, H)
        queries = self.parts.codebook(states.flatten(0, 1))
        things = seen.batch.things
        with torch.no_grad():
            wanted = self.parts.oracle(things.codes[packed.thing], things.where[packed.thing])
        chosen = _some_questions(packed, rng)
        masks = self._decoded(seen, packed, queries, image, chosen)
        return {
            "oracle": ORACLE_WEIGHT * F.mse_loss(queries, wanted),
            "bce": masks.bce,
            "dice": masks.dice,
            "refine": masks.refinement,
        }

    def _decoded(
        self, seen: Seen, packed: Packed, queries: Tensor, image: Tensor, chosen: Tensor
    ) -> MaskLosses:
        few = [feature[:MASK_IMAGES] for feature in seen.features]
        maps = self.parts.decoder.maps([self.parts.mask_projector(feature) for feature in few])
        scales = self.parts.decoder(maps, queries[chosen], image[chosen])
        low = combine_scales([scale.logits for scale in scales], self.model.config.mask_side)
        logits = F.interpolate(
            low[:, None], size=(self.bank.side,) * 2, mode="bilinear", align_corners=False
        )[:, 0]
        truth = masks_of(self.bank.owners(seen.batch), seen.batch.things, packed.thing[chosen])
        counts = packed.target_of[chosen].unique_consecutive(return_counts=True)[1].tolist()
        return mask_losses([logits], [truth.float()], [counts], LossWeights(refinement=2.0))

    @torch.no_grad()
    def evaluate(self) -> Mapping[str, float]:
        """Share of answers that name the right targets, by kind, generated freely."""
        rng = np.random.default_rng(1)
        count = self.held_out.count
        batch = self.held_out.take(np.arange(count), np.zeros(count, bool))
        seen = self._look(self.held_out, batch)
        asked = [[ask(scene, rng) for _ in range(4)] for scene in seen.batch.scenes]
        images = EncodedImages(seen.tokens, torch.ones(seen.tokens.shape[:2]), ())
        return answer_scores(self.model, self.tokenizer, images, asked)


def _some_questions(packed: Packed, rng: np.random.Generator) -> Tensor:
    """Indices of up to MASKS targets: whole questions, since refinement compares their masks."""
    asked = rng.permutation(int((packed.asked_at[:, 0] < MASK_IMAGES).sum()))
    counts = torch.bincount(packed.target_of, minlength=len(packed.asked_at)).numpy()[asked]
    taken = asked[np.cumsum(counts) <= MASKS]
    return torch.isin(packed.target_of, torch.from_numpy(taken)).nonzero()[:, 0]
