"""Stage 2: the language model learns to answer about image tokens that are written, not seen."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.checkpoints import Checkpoint
from pixellm.drawn.bank import ATTRIBUTES, Cells, Described, describe, find_cells
from pixellm.drawn.conversations import IGNORED, Conversations, Packed
from pixellm.drawn.heads import Pointers, SymbolicImage
from pixellm.drawn.questions import GROUP, Question, ask
from pixellm.drawn.scenes import Scene, draw_scene
from pixellm.engine import DecodeSettings, Engine
from pixellm.language import LanguageModel
from pixellm.model import EncodedImages, PixelLM
from pixellm.tokenizer import Tokenizer

IMAGES, QUESTIONS = 8, 8
"""Scenes of a step, and questions about each."""
CLEAR_SHARE = 0.5
"""Share of the steps in which background cells come into view."""
POINTER_WEIGHT, SET_WEIGHT = 0.3, 1.0
"""Weights of the training-only losses that say which cells a text position means."""


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


def read_packed(
    language: LanguageModel, head: Tensor, tokens: Tensor, packed: Packed, shown: Tensor
) -> Tensor:
    """Hidden states of all conversations, each image's prefix read once: (B, L, H).

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
    hidden = language(embeds, visible, positions=packed.positions(prefix))
    return hidden[:, prefix:]


def text_losses(
    language: LanguageModel,
    pointers: Pointers,
    hidden: Tensor,
    tokens: Tensor,
    packed: Packed,
    cells: Cells,
) -> dict[str, Tensor]:
    """Cross-entropy of the answers, and where the text points.

    Args:
        language: for its output layer.
        pointers: the training-only heads.
        hidden: (B, L, H).
        tokens: (B, I, H) image tokens.
        packed: the conversations.
        cells: where the things lie.
    """
    known = packed.predicts != IGNORED
    losses = {"ce": F.cross_entropy(language.lm_head(hidden[known]), packed.predicts[known])}
    target = cells.of_thing[packed.thing]
    for name, pointer, at in (
        ("phrase", pointers.phrase, packed.phrase_at),
        ("group", pointers.group, packed.group_at),
    ):
        logits = pointer(hidden[at[:, 0], at[:, 1]], tokens[at[:, 0]])
        losses[name] = POINTER_WEIGHT * F.cross_entropy(logits, target)
    at = packed.asked_at
    said = pointers.set(hidden[at[:, 0], at[:, 1]], tokens[at[:, 0]])
    wanted = torch.zeros_like(said).index_put((packed.target_of, target), torch.ones(()))
    there = cells.thing[at[:, 0]] >= 0
    losses["set"] = SET_WEIGHT * F.binary_cross_entropy_with_logits(said[there], wanted[there])
    return losses


class SpeakingParts(nn.Module):
    """What this stage trains: the language model, and parts that only training has."""

    def __init__(self, model: PixelLM, tokenizer: Tokenizer) -> None:
        super().__init__()
        hidden = int(model.config.llama["hidden_size"])
        self.language = model.language
        self.symbols = SymbolicImage(hidden, model.config.llm_grid, word_table(tokenizer))
        self.pointers = Pointers(hidden)


class LanguageStage:
    """Losses and scores of stage 2."""

    def __init__(self, model: PixelLM, tokenizer: Tokenizer, scenes: int, held_out: int) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.conversations = Conversations(tokenizer, model.config.system_text or "")
        self.head = torch.tensor(self.conversations.head())
        self.scenes, self.held_out = scenes, held_out
        self.parts = SpeakingParts(model, tokenizer)

    def losses(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        """The weighted losses of a random batch of scenes and questions."""
        scenes = [draw_scene(int(seed)) for seed in rng.integers(self.scenes, size=IMAGES)]
        questions = [[ask(scene, rng) for _ in range(QUESTIONS)] for scene in scenes]
        things = describe(scenes)
        packed = self.conversations.pack(questions, things.first)
        tokens, cells = self._tokens(self.parts, scenes, things)
        language, pointers = self.parts.language, self.parts.pointers
        # Background cells come into view bit by bit: 60 tokens that never matter would drown the
        # five that do before attention knows what to look for.
        chance = min(1.0, max(0.0, progress / CLEAR_SHARE))
        shown = (cells.thing >= 0) | torch.from_numpy(rng.random(cells.thing.shape) < chance)
        hidden = read_packed(language, self.head, tokens, packed, shown)
        return text_losses(language, pointers, hidden, tokens, packed, cells)

    def _tokens(
        self, parts: SpeakingParts, scenes: list[Scene], things: Described
    ) -> tuple[Tensor, Cells]:
        """Image tokens (B, I, H), written from the description."""
        cells = find_cells(scenes, things, self.model.config.llm_grid)
        embedding = parts.language.model.embed_tokens
        return parts.symbols(embedding, cells.thing, things), cells

    @torch.no_grad()
    def evaluate(self, parts: SpeakingParts) -> Mapping[str, float]:
        """Share of answers that are right word for word, by kind, generated freely."""
        rng = np.random.default_rng(1)
        scenes = [draw_scene(self.scenes + index) for index in range(self.held_out)]
        asked = [[ask(scene, rng) for _ in range(4)] for scene in scenes]
        tokens, _ = self._tokens(parts, scenes, describe(scenes))
        images = EncodedImages(tokens, torch.ones(tokens.shape[:2]), ())
        return answer_scores(self.model, self.tokenizer, parts.language, images, asked)


def answer_scores(
    model: PixelLM,
    tokenizer: Tokenizer,
    language: LanguageModel,
    images: EncodedImages,
    asked: list[list[Question]],
) -> Mapping[str, float]:
    """Generates answers from ready image tokens and compares the texts."""
    own, model.language = model.language, language
    try:
        engine = Engine(Checkpoint(model, tokenizer, ""), DecodeSettings(max_new_tokens=80))
        questions = [question for asks in asked for question in asks]
        image_of = [image for image, asks in enumerate(asked) for _ in asks]
        prompts = [engine.prompt_ids(question.text) for question in questions]
        made = engine.generate(images, prompts, image_of)
    finally:
        model.language = own
    right: dict[str, list[float]] = defaultdict(list)
    for question, generation in zip(questions, made, strict=True):
        wanted = tokenizer.encode(question.answer.replace(GROUP, tokenizer.seg_text), bos=False)
        hit = float(list(generation.ids[:-1]) == wanted)
        right[question.kind].append(hit)
        right["exact"].append(hit)
    return {kind: float(np.mean(hits)) for kind, hits in sorted(right.items())}
