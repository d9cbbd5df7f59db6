"""Stages align and joint: what is seen takes the place of what was written; answers get masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.drawn.bank import Bank, Cells, DrawnBatch, find_cells, masks_of, overlaps
from pixellm.drawn.conversations import Conversations, Packed
from pixellm.drawn.language_stage import (
    Reading,
    SpeakingParts,
    answer_scores,
    read_packed,
    text_losses,
)
from pixellm.drawn.practice import PRACTICE, practise
from pixellm.drawn.questions import Question, ask
from pixellm.drawn.stages import IMAGES
from pixellm.drawn.vision_stage import SeeingParts
from pixellm.losses import LossWeights, mask_losses
from pixellm.masks import combine_scales
from pixellm.model import EncodedImages, PixelLM
from pixellm.tokenizer import Tokenizer
from pixellm.vision import shrink_for_language

ALIGN_WEIGHT = 0.2
"""Of the training-only loss by which seen tokens become like written ones."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is done in a step. The defaults are those of the recipe."""

    images: int = IMAGES
    """scenes of a batch"""
    questions: int = 8
    """about each scene of a batch"""
    mask_images: int = 2
    """scenes in which masks are decoded; the others' targets learn from the oracle's query alone,
    which costs a hundredth"""
    masks: int = 10
    """targets in them whose masks are decoded"""
    oracle: float = 1.0
    """weight of the training-only loss by which queries become like the oracle's; 0: not used"""
    refinement: float = 2.0
    """weight of the target refinement loss"""
    mix: Mapping[str, float] = field(default_factory=lambda: PRACTICE)
    """how often each kind of question is asked"""

    @property
    def align_images(self) -> int:
        """Scenes of a batch while only the projector learns, which costs little."""
        return 2 * self.images


def work_of(images: int) -> Work:
    """The recipe's step for another number of scenes in a batch: as many masks for each."""
    usual = Work()
    return Work(
        images=images,
        mask_images=-(-usual.mask_images * images // usual.images),
        masks=-(-usual.masks * images // usual.images),
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch as the model's frozen or trained eyes see it."""

    batch: DrawnBatch
    features: list[Tensor]
    tokens: Tensor
    cells: Cells


class JointParts(nn.Module):
    """What the stages align and joint train, as vision and language left it."""

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

    @property
    def device(self) -> torch.device:
        """Where they learn."""
        return self.pointers.set.bias.device


class JointStage:
    """Losses and scores of the stages align and joint.

    Args:
        model: for its sizes.
        tokenizer: of the language model.
        parts: what learns.
        banks: scenes to train on, and some for the curve.
        work: what is done in a step.
    """

    def __init__(
        self,
        model: PixelLM,
        tokenizer: Tokenizer,
        parts: JointParts,
        banks: tuple[Bank, Bank],
        work: Work | None = None,
    ) -> None:
        self.model, self.tokenizer, self.parts = model, tokenizer, parts
        self.work = work or Work()
        self.bank, self.held_out = banks
        self.conversations = Conversations(tokenizer, model.config.system_text or "")
        self.head = torch.tensor(self.conversations.head())

    def alignment(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        """The align stage: only the projector learns, to write what the symbols write."""
        batch = self.bank.sample(rng, self.work.align_images)
        return {"align": self._align(self._look(self.bank, batch))}

    def losses(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        """The weighted losses of a random batch of scenes and questions."""
        seen = self._look(self.bank, self.bank.sample(rng, self.work.images))
        questions = [
            practise(scene, rng, self.work.questions, self.work.mix) for scene in seen.batch.scenes
        ]
        packed = self._pack(questions, seen)
        language, pointers = self.parts.language, self.parts.pointers
        read = self._read(seen, packed)
        losses = text_losses(language, pointers, read, seen.tokens, packed, seen.cells)
        losses["align"] = ALIGN_WEIGHT * self._align(seen)
        return losses | self._mask_losses(seen, packed, read.last, rng)

    def _pack(self, questions: Sequence[Sequence[Question]], seen: Seen) -> Packed:
        packed = self.conversations.pack(questions, seen.batch.things.first)
        return packed.to(self.parts.device)

    def _look(self, bank: Bank, batch: DrawnBatch) -> Seen:
        batch = batch.to(self.parts.device)
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

    def _read(self, seen: Seen, packed: Packed) -> Reading:
        shown = seen.tokens.new_ones(seen.tokens.shape[:2], dtype=torch.bool)
        head = self.head.to(shown.device)
        return read_packed(self.parts.language, head, seen.tokens, packed, shown)

    def _queries(self, packed: Packed, hidden: Tensor) -> Tensor:
        """(N, S, D) of all targets, from the states that predict their codebook tokens."""
        image, slot = packed.group_at.T
        places = slot[:, None] + torch.arange(self.model.config.group_size, device=slot.device)
        states = hidden[image[:, None], places]  # (N, S * K, H)
        return self.parts.codebook(states.flatten(0, 1))

    def _mask_losses(
        self, seen: Seen, packed: Packed, hidden: Tensor, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        queries, losses = self._queries(packed, hidden), {}
        if self.work.oracle:
            losses["oracle"] = self.work.oracle * self._oracle(seen, packed, queries)
        chosen = _some_questions(packed, rng, self.work)
        few = [feature[: self.work.mask_images] for feature in seen.features]
        logits = self._decode(few, packed, queries, chosen)
        truth = masks_of(self.bank.owners(seen.batch), seen.batch.things, packed.thing[chosen])
        counts = packed.target_of[chosen].unique_consecutive(return_counts=True)[1].tolist()
        weights = LossWeights(refinement=self.work.refinement)
        masks = mask_losses([logits], [truth.float()], [counts], weights)
        losses |= {"bce": masks.bce, "dice": masks.dice}
        return losses | ({"refinement": masks.refinement} if self.work.refinement else {})

    def _oracle(self, seen: Seen, packed: Packed, queries: Tensor) -> Tensor:
        things = seen.batch.things
        with torch.no_grad():
            wanted = self.parts.oracle(things.codes[packed.thing], things.where[packed.thing])
        return F.mse_loss(queries, wanted)

    def _decode(
        self, features: list[Tensor], packed: Packed, queries: Tensor, chosen: Tensor
    ) -> Tensor:
        """(M,) of the targets -> (M, s, s) mask logits at the canvas' size."""
        image = packed.group_at[chosen, 0]
        maps = self.parts.decoder.maps([self.parts.mask_projector(each) for each in features])
        scales = self.parts.decoder(maps, queries[chosen], image)
        low = combine_scales([scale.logits for scale in scales], self.model.config.mask_side)
        return F.interpolate(
            low[:, None], size=(self.bank.side,) * 2, mode="bilinear", align_corners=False
        )[:, 0]

    @torch.no_grad()
    def mask_ious(self, bank: Bank, questions: Sequence[Sequence[Question]]) -> list[float]:
        """IoU of the mask of every target, when the model reads the right answers.

        Args:
            bank: the scenes.
            questions: about each of them.
        """
        found: list[float] = []
        for start in range(0, bank.count, IMAGES):
            index = np.arange(start, min(start + IMAGES, bank.count))
            seen = self._look(bank, bank.take(index, np.zeros(len(index), bool)))
            asked = questions[start : start + len(index)]
            packed = self._pack(asked, seen)
            queries = self._queries(packed, self._read(seen, packed).last)
            every = torch.arange(len(queries), device=queries.device)
            masks = self._decode(seen.features, packed, queries, every) > 0
            truth = masks_of(bank.owners(seen.batch), seen.batch.things, packed.thing)
            found.extend(overlaps(masks, truth).tolist())
        return found

    @torch.no_grad()
    def evaluate(self) -> Mapping[str, float]:
        """Share of answers that name the right targets, by kind, generated freely."""
        rng = np.random.default_rng(1)
        count = self.held_out.count
        batch = self.held_out.take(np.arange(count), np.zeros(count, bool))
        seen = self._look(self.held_out, batch)
        asked = [[ask(scene, rng) for _ in range(4)] for scene in seen.batch.scenes]
        images = EncodedImages(seen.tokens, seen.tokens.new_ones(seen.tokens.shape[:2]), ())
        return answer_scores(self.model, self.tokenizer, images, asked)


def _some_questions(packed: Packed, rng: np.random.Generator, work: Work) -> Tensor:
    """Indices of so many targets: whole questions, since refinement compares their masks."""
    asked = rng.permutation(int((packed.asked_at[:, 0] < work.mask_images).sum()))
    every = torch.bincount(packed.target_of, minlength=len(packed.asked_at)).cpu().numpy()
    taken = torch.from_numpy(asked[np.cumsum(every[asked]) <= work.masks])
    return torch.isin(packed.target_of, taken.to(packed.target_of.device)).nonzero()[:, 0]
