"""The engine: images with questions in, answers with masks out, in true batches.

An image is encoded once and the text before the question is read once per image, for all its
questions. All questions of all images of a call are then answered together, a token a step, with a
key-value cache.

Shapes: B images, R rows (one question each), P slots of the shared prefix, Q slots of the longest
question, H width, V vocabulary, G generated tokens, N targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from pixellm.answers import (
    Answer,
    DecodeSettings,
    Target,
    TokenGroup,
    find_groups,
    render_answer,
)
from pixellm.checkpoints import Checkpoint
from pixellm.errors import InstructionError
from pixellm.images import PreparedImage
from pixellm.masks import mask_scores, postprocess_masks
from pixellm.model import EncodedImages
from pixellm.phrases import find_phrases
from pixellm.prompts import SYSTEM_TEXT, render_prompt
from pixellm.tokenizer import IMAGE_TOKEN_INDEX

DECODE_TARGETS = 64
"""Targets that the pixel decoder takes at once: about 0.6 GB of fp32 maps at the released sizes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and everything that is asked about it."""

    image: PreparedImage
    questions: tuple[str, ...]
    """Cleaned texts (`pixellm.prompts.clean_instruction`)."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one question before its masks are made."""

    ids: tuple[int, ...]
    """New ids, with the end token when the answer ended by itself."""
    hidden: Tensor
    """(G, H): the state that predicted each id."""
    logprobs: Tensor
    """(G,): log-probability of each id."""


@dataclass(frozen=True, slots=True, eq=False)
class TargetMask:
    """The mask of one target, in the frame of its image."""

    pixels: np.ndarray
    """(h0, w0) bool."""
    score: float
    """Mean probability of its pixels."""
    iou: float
    """The decoder's own guess of its IoU."""


class Engine:
    """Answers samples with one model. Not thread-safe: one caller at a time."""

    def __init__(self, checkpoint: Checkpoint, settings: DecodeSettings | None = None) -> None:
        self.model = checkpoint.model
        self.tokenizer = checkpoint.tokenizer
        self.settings = settings or DecodeSettings()
        official = self.model.config.system_text
        self.system = SYSTEM_TEXT if official is None else official

    @torch.inference_mode()
    def answer(self, samples: Sequence[Sample]) -> list[tuple[Answer, ...]]:
        """Answers all questions of all samples together.

        Returns:
            One tuple per sample, one answer per question, in order.

        Raises:
            InstructionError: a question doesn't fit into the model's positions.
        """
        if not samples:
            return []
        # 1) what needs computing once per image
        pixels = torch.stack([sample.image.pixels for sample in samples]).to(self.model.device)
        images = self.model.encode_images(pixels, [sample.image.resized for sample in samples])
        # 2) all questions in one batch
        image_of = [i for i, sample in enumerate(samples) for _ in sample.questions]
        prompts = [self.prompt_ids(text) for sample in samples for text in sample.questions]
        generations = self.generate(images, prompts, image_of)
        # 3) the masks of all targets
        answers = self._answers(samples, images, generations, image_of)
        rows = iter(answers)
        return [tuple(next(rows) for _ in sample.questions) for sample in samples]

    def prompt_ids(self, question: str) -> list[int]:
        """Ids of a question's prompt, with IMAGE_TOKEN_INDEX where the image goes."""
        return self.tokenizer.encode_prompt(render_prompt(question, self.system))

    # ---- text ----

    @torch.inference_mode()
    def generate(
        self, images: EncodedImages, prompts: Sequence[Sequence[int]], image_of: Sequence[int]
    ) -> list[Generation]:
        """Greedy decoding of all prompts together.

        Args:
            images: encoded images.
            prompts: ids with one IMAGE_TOKEN_INDEX each; the part up to it is the same in all.
            image_of: the image of each prompt.
        """
        if not prompts:
            return []
        language = self.model.language
        budgets = torch.tensor([self.room(prompt) for prompt in prompts], device=self.model.device)
        keys, cache, last, position = self._read_questions(images, prompts, image_of)
        done = torch.zeros_like(budgets, dtype=torch.bool)
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        while True:
            logits = language.lm_head(last).float()  # (R, V)
            chosen = logits.argmax(-1)
            best = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
            steps.append((chosen, last, best))
            done = done | (chosen == self.tokenizer.eos_id) | (budgets <= len(steps))
            if bool(done.all()):
                return self._cut(steps, budgets.tolist())
            keys = F.pad(keys, (0, 1), value=1)
            last = language(language.embed(chosen[:, None]), keys, cache, position[:, None])[:, 0]
            position = position + 1

    def room(self, prompt: Sequence[int]) -> int:
        """New tokens that an answer to a prompt may have, whatever it is batched with.

        Raises:
            InstructionError: none fits behind the prompt. One such prompt fails a whole call, so
                ask here first where prompts of several users are joined.
        """
        read = len(prompt) - 1 + self.model.config.image_tokens
        room = int(self.model.config.llama.get("max_position_embeddings", 2048)) - read
        if room < 1:
            raise InstructionError(
                f"an instruction of {read} positions with its image leaves no room for an "
                f"answer: shorten it by at least {1 - room} tokens"
            )
        return min(self.settings.max_new_tokens, room)

    def _read_questions(
        self, images: EncodedImages, prompts: Sequence[Sequence[int]], image_of: Sequence[int]
    ) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
        """Reads all prompts.

        Returns:
            (R, P + Q) valid keys; the filled cache; (R, H) the state behind each prompt; (R,) the
            position of its first new token.
        """
        language, device = self.model.language, self.model.device
        keys, cache = self._read_prefix(images, prompts[0])
        rows = torch.tensor(image_of, device=device)
        keys = keys[rows]
        cache.batch_select_indices(rows)
        # the questions, padded on the right; padding is never attended to and takes no position
        tails = [torch.tensor(_after_image(prompt), device=device) for prompt in prompts]
        lengths = torch.tensor([len(tail) for tail in tails], device=device)
        ids = torch.nn.utils.rnn.pad_sequence(tails, batch_first=True)
        slots = torch.arange(ids.shape[1], device=device)
        first = keys.shape[1]
        keys = torch.cat([keys, (slots < lengths[:, None]).to(keys)], dim=1)
        hidden = language(language.embed(ids), keys, cache, (first + slots)[None])
        last = hidden[torch.arange(len(rows), device=device), lengths - 1]
        return keys, cache, last, first + lengths

    def _read_prefix(
        self, images: EncodedImages, prompt: Sequence[int]
    ) -> tuple[Tensor, DynamicCache]:
        """Reads system text and image once per image: (B, P) valid keys and the filled cache."""
        model = self.model
        count = len(images.tokens)
        head = torch.tensor(prompt[: prompt.index(IMAGE_TOKEN_INDEX)], device=model.device)
        words = model.language.embed(head).expand(count, -1, -1)
        ones = images.token_valid.new_ones(count, len(head))
        keys = torch.cat([ones, images.token_valid], dim=1)
        cache = DynamicCache(config=model.language.model.config)
        model.language(torch.cat([words, images.tokens], dim=1), keys, cache)
        return keys, cache

    def _cut(
        self, steps: Sequence[tuple[Tensor, Tensor, Tensor]], budgets: Sequence[int]
    ) -> list[Generation]:
        """Steps of all rows -> rows, each ended behind its own end token or at its budget."""
        ids = torch.stack([chosen for chosen, _, _ in steps], dim=1)  # (R, G)
        hidden = torch.stack([state for _, state, _ in steps], dim=1)  # (R, G, H)
        logprobs = torch.stack([best for _, _, best in steps], dim=1)
        rows = []
        for row, (new, budget) in enumerate(zip(ids.tolist(), budgets, strict=True)):
            eos = self.tokenizer.eos_id
            end = min(budget, new.index(eos) + 1 if eos in new else len(new))
            rows.append(Generation(tuple(new[:end]), hidden[row, :end], logprobs[row, :end]))
        return rows

    # ---- masks ----

    def _answers(
        self,
        samples: Sequence[Sample],
        images: EncodedImages,
        generations: Sequence[Generation],
        image_of: Sequence[int],
    ) -> list[Answer]:
        """Groups, queries, masks and phrases of every generation."""
        found = [
            find_groups(generation.ids, self.tokenizer.seg_ids, self.settings.official_groups)
            for generation in generations
        ]
        states = [
            generation.hidden[list(group.positions)]
            for generation, (groups, _) in zip(generations, found, strict=True)
            for group in groups
        ]
        owners = [image for image, (groups, _) in zip(image_of, found, strict=True) for _ in groups]
        decoded = iter(self._masks(samples, images, states, owners))
        return [
            self._answer(generation, groups, malformed, [next(decoded) for _ in groups])
            for generation, (groups, malformed) in zip(generations, found, strict=True)
        ]

    def _masks(
        self,
        samples: Sequence[Sample],
        images: EncodedImages,
        states: Sequence[Tensor],
        owners: Sequence[int],
    ) -> list[TargetMask]:
        """The mask of every target, from its (S * K, H) states and the index of its image."""
        masks, side = list[TargetMask](), self.model.config.image_side
        for start in range(0, len(states), DECODE_TARGETS):
            chunk = slice(start, start + DECODE_TARGETS)
            queries = self.model.codebook(torch.cat(list(states[chunk])))
            image_of = torch.tensor(owners[chunk], device=self.model.device)
            low = self.model.decode(images, queries, image_of)
            guesses = low.iou.float().tolist()
            for row, owner in enumerate(owners[chunk]):
                image = samples[owner].image
                logits = postprocess_masks(
                    low.logits[row : row + 1], image.resized, image.original, side
                )
                score = float(mask_scores(logits)[0])
                masks.append(TargetMask((logits[0] > 0).cpu().numpy(), score, guesses[row]))
        return masks

    def _answer(
        self,
        generation: Generation,
        groups: Sequence[TokenGroup],
        malformed: bool,
        masks: Sequence[TargetMask],
    ) -> Answer:
        text, marks = render_answer(generation.ids, groups, self.tokenizer)
        found = zip(groups, find_phrases(text, marks), masks, strict=True)
        targets = tuple(
            Target(
                index=index,
                phrase=None if span is None else text[slice(*span)],
                span=span,
                phrase_source="none" if span is None else "answer",
                mask=mask.pixels,
                score_mask=mask.score,
                score_iou=mask.iou,
                score_token=float(generation.logprobs[list(group.positions)].sum().exp()),
            )
            for index, (group, span, mask) in enumerate(found)
        )
        ended = bool(generation.ids) and generation.ids[-1] == self.tokenizer.eos_id
        return Answer(text, generation.ids, targets, malformed=malformed, truncated=not ended)


def _after_image(prompt: Sequence[int]) -> list[int]:
    return list(prompt[prompt.index(IMAGE_TOKEN_INDEX) + 1 :])
