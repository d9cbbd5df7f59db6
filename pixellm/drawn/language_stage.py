"""Stages words and language: a model learns to answer about tokens that are written, not seen."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.answers import DecodeSettings
from pixellm.checkpoints import Checkpoint
from pixellm.drawn.bank import ATTRIBUTES, Cells, Described, describe, find_cells
from pixellm.drawn.conversations import Conversations, Packed
from pixellm.drawn.heads import Pointer, Pointers, SymbolicImage
from pixellm.drawn.practice import practise
from pixellm.drawn.questions import GROUP, Question, ask, names_same
from pixellm.drawn.scenes import Scene, draw_scene
from pixellm.drawn.stages import IMAGES
from pixellm.engine.engine import Engine
from pixellm.language import LanguageModel
from pixellm.model import EncodedImages, PixelLM
from pixellm.prompts import IGNORE_INDEX
from pixellm.tokenizer import Tokenizer

QUESTIONS = 8
"""About each scene of a batch."""
ONE_WEIGHT, SET_WEIGHT = 0.3, 1.0
"""Weights of the training-only losses: a text position means one cell, or a set of cells."""


def word_table(tokenizer: Tokenizer) -> Tensor:
    """(A, most) token id of each attribute's words; the vocabulary holds them whole."""
    table = torch.zeros(len(ATTRIBUTES), max(map(len, ATTRIBUTES)), dtype=torch.long)
    for row, words in zip(table, ATTRIBUTES, strict=True):
        for column, word in enumerate(words):
            ids = tokenizer.encode(word, bos=False)
            if len(ids) != 1:
                raise ValueError(f"the vocabulary splits {word!r} into {len(ids)} pieces")
            row[column] = ids[0]
    return table


@dataclass(frozen=True, slots=True)
class Reading:
    """Hidden states of all conversations at three depths of the language model, (B, L, H) each."""

    half: Tensor
    late: Tensor
    """Behind three quarters of the layers."""
    last: Tensor


def read_packed(
    language: LanguageModel, head: Tensor, tokens: Tensor, packed: Packed, shown: Tensor
) -> Reading:
    """Reads all conversations, and each image's prefix once.

    Args:
        language: the language model.
        head: (p,) ids before the image.
        tokens: (B, I, H) image tokens.
        packed: the conversations behind the images.
        shown: (B, I) bool, image tokens that may be attended to.
    """
    words = language.embed(head).expand(len(tokens), -1, -1)
    embeds = torch.cat([words, tokens, language.embed(packed.ids)], dim=1)
    prefix = len(head) + tokens.shape[1]
    visible = packed.visible(F.pad(shown, (len(head), 0), value=True))
    depths = language.depths(embeds, visible, packed.positions(prefix))
    layers = len(depths) - 1
    half, late, last = (depths[d][:, prefix:] for d in (layers // 2, layers * 3 // 4, layers))
    return Reading(half, late, last)


def text_losses(
    language: LanguageModel,
    pointers: Pointers,
    read: Reading,
    tokens: Tensor,
    packed: Packed,
    cells: Cells,
) -> dict[str, Tensor]:
    """Cross-entropy of the answers, and where the text points.

    The words alone teach little: which cells an answer is about is said at each place where the
    model must have found out, the earlier the better.

    Args:
        language: for its output layer.
        pointers: the training-only heads.
        read: the conversations, read.
        tokens: (B, I, H) image tokens.
        packed: the conversations.
        cells: where the things lie.
    """
    known = packed.predicts != IGNORE_INDEX
    words = F.cross_entropy(language.lm_head(read.last[known]), packed.predicts[known])
    target, asked = cells.of_thing[packed.thing], packed.asked_at
    points = Pointing(tokens, cells)
    every = (packed.target_of, target)
    later = packed.target_of[:, None] == packed.target_of  # (N, N): targets of the same question
    left, named = later.triu(1).nonzero().T
    return {
        "ce": words,
        "group": ONE_WEIGHT * points.one(pointers.group, read.last, packed.group_at, target),
        "anchor": ONE_WEIGHT
        * points.one(
            pointers.anchor, read.half, asked[packed.anchored], cells.of_thing[packed.anchor]
        ),
        "early_set": SET_WEIGHT * points.several(pointers.early_set, read.late, asked, every),
        "set": SET_WEIGHT * points.several(pointers.set, read.last, asked, every),
        "rest": SET_WEIGHT
        * points.several(pointers.rest, read.last, packed.after_at, (left, target[named])),
    }


@dataclass(frozen=True, slots=True)
class Pointing:
    """Losses of pointing at the cells of a batch's images."""

    tokens: Tensor
    cells: Cells

    def one(self, pointer: Pointer, states: Tensor, at: Tensor, cell: Tensor) -> Tensor:
        """Cross-entropy of one cell for each of some places.

        Args:
            pointer: the head.
            states: (B, L, H).
            at: (N, 2) image and slot.
            cell: (N,) the cell that each means.
        """
        if not len(at):
            return states.new_zeros(())
        logits = pointer(states[at[:, 0], at[:, 1]], self.tokens[at[:, 0]])
        return F.cross_entropy(logits, cell)

    def several(
        self, pointer: Pointer, states: Tensor, at: Tensor, marked: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Binary cross-entropy over the cells that hold things; arguments as in `one`.

        Args:
            pointer: the head.
            states: (B, L, H).
            at: (N, 2) image and slot.
            marked: place (an index into `at`) and cell of all that is meant.
        """
        if not len(at):
            return states.new_zeros(())
        logits = pointer(states[at[:, 0], at[:, 1]], self.tokens[at[:, 0]])
        wanted = torch.zeros_like(logits).index_put(marked, logits.new_ones(()))
        there = self.cells.thing[at[:, 0]] >= 0
        return F.binary_cross_entropy_with_logits(logits[there], wanted[there])


class SpeakingParts(nn.Module):
    """What this stage trains: the language model, and parts that only training has."""

    def __init__(self, model: PixelLM, tokenizer: Tokenizer) -> None:
        super().__init__()
        hidden = int(model.config.llama["hidden_size"])
        self.language = model.language
        self.symbols = SymbolicImage(hidden, model.config.llm_grid, word_table(tokenizer))
        self.pointers = Pointers(hidden)

    @property
    def device(self) -> torch.device:
        """Where they learn."""
        return self.pointers.set.bias.device


class LanguageStage:
    """Losses and scores of the stages words and language.

    Args:
        model: its language model learns.
        tokenizer: of the language model.
        scenes: whose seeds are below this are trained on.
        held_out: scenes behind them that draw the curve.
        images: scenes of a batch.
        clear_share: share of the steps in which background cells come into view bit by bit: 60
            tokens that never matter would drown the five that do before attention knows what to
            look for. 0 shows all at once.
    """

    def __init__(
        self,
        model: PixelLM,
        tokenizer: Tokenizer,
        scenes: int,
        held_out: int,
        images: int = IMAGES,
        clear_share: float = 0.0,
    ) -> None:
        self.model, self.tokenizer, self.images = model, tokenizer, images
        self.conversations = Conversations(tokenizer, model.config.system_text or "")
        self.head = torch.tensor(self.conversations.head())
        self.scenes, self.held_out, self.clear_share = scenes, held_out, clear_share
        self.parts = SpeakingParts(model, tokenizer)

    def losses(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        """The weighted losses of a random batch of scenes and questions."""
        scenes = [draw_scene(int(seed)) for seed in rng.integers(self.scenes, size=self.images)]
        questions = [practise(scene, rng, QUESTIONS) for scene in scenes]
        device = self.parts.device
        things = describe(scenes).to(device)
        packed = self.conversations.pack(questions, things.first).to(device)
        tokens, cells = self._tokens(scenes, things)
        language, pointers = self.parts.language, self.parts.pointers
        chance = min(1.0, progress / self.clear_share) if self.clear_share else 1.0
        clear = torch.from_numpy(rng.random(cells.thing.shape) < chance).to(device)
        shown = (cells.thing >= 0) | clear
        read = read_packed(language, self.head.to(device), tokens, packed, shown)
        return text_losses(language, pointers, read, tokens, packed, cells)

    def _tokens(self, scenes: list[Scene], things: Described) -> tuple[Tensor, Cells]:
        """Image tokens (B, I, H), written from the description."""
        cells = find_cells(scenes, things, self.model.config.llm_grid)
        embedding = self.parts.language.model.embed_tokens
        return self.parts.symbols(embedding, cells.thing, things), cells

    @torch.no_grad()
    def evaluate(self) -> Mapping[str, float]:
        """Share of answers that are right word for word, by kind, generated freely."""
        rng = np.random.default_rng(1)
        scenes = [draw_scene(self.scenes + index) for index in range(self.held_out)]
        asked = [[ask(scene, rng) for _ in range(4)] for scene in scenes]
        tokens, _ = self._tokens(scenes, describe(scenes).to(self.parts.device))
        images = EncodedImages(tokens, tokens.new_ones(tokens.shape[:2]), ())
        return answer_scores(self.model, self.tokenizer, images, asked)


def answer_scores(
    model: PixelLM,
    tokenizer: Tokenizer,
    images: EncodedImages,
    asked: list[list[Question]],
) -> Mapping[str, float]:
    """Generates answers from ready image tokens: the share that names the right targets."""
    engine = Engine(Checkpoint(model, tokenizer, ""), DecodeSettings(max_new_tokens=80))
    questions = [question for asks in asked for question in asks]
    image_of = [image for image, asks in enumerate(asked) for _ in asks]
    prompts = [engine.prompt_ids(question.text) for question in questions]
    made = engine.generate(images, prompts, image_of)
    right: dict[str, list[float]] = defaultdict(list)
    for question, generation in zip(questions, made, strict=True):
        said = tokenizer.decode(generation.ids[:-1])
        wanted = question.answer.replace(GROUP, tokenizer.seg_text)
        hit = float(names_same(said, wanted, tokenizer.seg_text))
        right[question.kind].append(hit)
        right["exact"].append(hit)
    return {kind: float(np.mean(hits)) for kind, hits in sorted(right.items())}
