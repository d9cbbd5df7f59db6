"""Many questions at once, as one would do it with transformers: `generate` on a padded batch.

The image is encoded once per sample. Prompts are padded on the left, and a batch goes on until its
longest answer has ended. The masks of a batch are decoded together.

Shapes: R rows of a batch, P positions of its longest prompt, G ids of its longest answer, H width
of the language model, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

from pixellm.engine.rows import Sample
from pixellm.model import EncodedImages, PixelLM
from tests.benchmarks.baselines import Said, cut_plainly, places_of_groups
from tests.benchmarks.speech import Speaker, Tail, tail_of

BATCH = 32
"""Questions of a batch."""


class Padded:
    """Answers in padded batches."""

    def __init__(self, speaker: Speaker, batch: int = BATCH) -> None:
        self._speaker, self._batch = speaker, batch
        self._llama: Any = share_weights(speaker.model)  # its `generate` has no narrow types
        self._states: list[Tensor] = []  # (R, H) of each step, that predicted its ids
        # with `output_hidden_states` it would keep those of all layers and positions
        self._llama.model.norm.register_forward_hook(self._keep)

    def _keep(self, _: Any, __: Any, states: Tensor) -> None:
        self._states.append(states[:, -1].clone())

    @torch.inference_mode()
    def answer(self, samples: Sequence[Sample]) -> list[Said]:
        """One answer per question, in order."""
        pairs = [(at, text) for at, sample in enumerate(samples) for text in sample.questions]
        said = list[Said]()
        for start in range(0, len(pairs), self._batch):
            part = pairs[start : start + self._batch]
            first, last = part[0][0], part[-1][0]
            owners = [at - first for at, _ in part]
            own, texts = samples[first : last + 1], [text for _, text in part]
            said += self._answer_batch(own, owners, texts)
        return said

    def _answer_batch(
        self, samples: Sequence[Sample], owners: Sequence[int], texts: Sequence[str]
    ) -> list[Said]:
        model = self._speaker.model
        pixels = torch.stack([sample.image.pixels for sample in samples])
        seen = model.encode_images(pixels, [sample.image.resized for sample in samples])
        prompts = [self._speaker.prompt(text) for text in texts]
        ids, states = self._generate(_pad(model, prompts, seen, owners), prompts)
        places = [places_of_groups(self._speaker, row) for row in ids]
        picked = [own[at] for own, at in zip(states, places, strict=True)]
        masks = self._decode(seen, owners, picked)
        said = list[Said]()
        for row, owner, low in zip(ids, owners, masks, strict=True):
            image = samples[owner].image
            nothing = np.zeros((0, *image.original), dtype=bool)
            cut = cut_plainly(self._speaker, low, image) if len(low) else nothing
            said.append(Said(tuple(row), cut))
        return said

    def _generate(
        self, batch: "PaddedPrompts", prompts: Sequence[Sequence[int]]
    ) -> tuple[list[list[int]], list[Tensor]]:
        """Of each row its ids, and the states (ids, H) that predicted them."""
        speaker = self._speaker
        budgets = [speaker.budget(prompt) for prompt in prompts]
        out = self._llama.generate(
            inputs_embeds=batch.embeds,
            attention_mask=batch.valid,
            position_ids=batch.positions,
            max_new_tokens=max(budgets),
            do_sample=False,
            eos_token_id=speaker.tokenizer.eos_id,
            pad_token_id=speaker.tokenizer.pad_id,
            return_dict_in_generate=True,
            logits_processor=LogitsProcessorList([Prompter(speaker, list(map(tail_of, prompts)))]),
        )
        states, self._states = torch.stack(self._states, dim=1), []
        ids = [
            _up_to_end(row[:budget], speaker.tokenizer.eos_id)
            for row, budget in zip(out.sequences.tolist(), budgets, strict=True)
        ]
        return ids, [own[: len(row)] for own, row in zip(states, ids, strict=True)]

    def _decode(
        self, seen: EncodedImages, owners: Sequence[int], states: Sequence[Tensor]
    ) -> list[Tensor]:
        """States of whole groups of each row -> its low logits."""
        model = self._speaker.model
        counts = [len(each) // model.config.group_size for each in states]
        if not sum(counts):
            return [states[0].new_empty(0)] * len(states)
        image_of = torch.tensor(owners).repeat_interleave(torch.tensor(counts))
        low = model.decode(seen.maps, model.codebook(torch.cat(list(states))), image_of)
        return list(low.logits.split(counts))


@dataclass(frozen=True, slots=True, eq=False)
class PaddedPrompts:
    """The prompts of a batch with their images, padded on the left."""

    embeds: Tensor
    """(R, P, H)"""
    valid: Tensor
    """(R, P) long: 0 on the padding of rows and of images"""
    positions: Tensor
    """(R, P) long: the padding of an image counts, that of a row does not"""


class Prompter(LogitsProcessor):
    """Lets the scripts of a `Speech` overrule what `generate` would say."""

    def __init__(self, speaker: Speaker, questions: Sequence[Tail]) -> None:
        self._speaker, self._questions = speaker, questions

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(R, ids said so far), (R, V) -> (R, V)."""
        indices = [input_ids.shape[1]] * len(scores)
        return self._speaker.speech.force(scores, self._questions, indices)  # type: ignore[return-value]


def share_weights(model: PixelLM) -> LlamaForCausalLM:
    """A LlamaForCausalLM whose weights are the tensors of PixelLM, not copies of them."""
    with torch.device("meta"):
        llama = LlamaForCausalLM(model.config.llama_config())
    llama.model.load_state_dict(model.language.model.state_dict(), assign=True)
    llama.lm_head.weight = model.language.lm_head.weight
    llama.model.rotary_emb = model.language.model.rotary_emb  # its angles are no weights
    return llama.eval()


def _pad(
    model: PixelLM, prompts: Sequence[Sequence[int]], seen: EncodedImages, owners: Sequence[int]
) -> PaddedPrompts:
    embeds, valid, positions = list[Tensor](), list[Tensor](), list[Tensor]()
    longest = max(map(len, prompts)) - 1 + model.config.image_tokens
    for prompt, owner in zip(prompts, owners, strict=True):
        read, own = torch.tensor([prompt]), slice(owner, owner + 1)
        row = model.language.splice(read, seen.tokens[own])[0]
        keys = model.key_mask(read, torch.ones_like(read), seen.token_valid[own])[0]
        left = longest - len(row)
        embeds.append(torch.cat([row.new_zeros(left, row.shape[1]), row]))
        valid.append(torch.cat([keys.new_zeros(left), keys]).long())
        positions.append((torch.arange(longest) - left).clamp(min=0))
    return PaddedPrompts(torch.stack(embeds), torch.stack(valid), torch.stack(positions))


def _up_to_end(ids: Sequence[int], eos_id: int) -> list[int]:
    end = ids.index(eos_id) + 1 if eos_id in ids else len(ids)
    return list(ids[:end])
