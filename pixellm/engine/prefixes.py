"""Prefixes: what all questions of a picture begin with, read once and kept in its slots.

The words before the image are the same for all pictures and read once for all of them; what is read
of a picture are its tokens, and they look at these words.

Shapes: b pictures, L words before the image, I image tokens, P = L + I slots of a prefix, H width,
h key-value heads, d width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache

from pixellm.engine.replays import TOKENS_ALIKE
from pixellm.engine.rows import Picture, join_tokens
from pixellm.engine.slots import Slots
from pixellm.language import LanguageModel
from pixellm.transfer import send


class TextCache(Cache):
    """What a language model keeps of the words that all prompts begin with.

    They may be read again, with other weights: they go to the same memory, which recordings read.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.kept = list[tuple[Tensor, Tensor]]()
        """(1, h, L, d) keys and values of each layer"""
        self.stale = True
        """whether weights may be others than those it was filled with"""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Keeps those of a layer; the first time they come in order."""
        made = key_states, value_states
        if layer_idx == len(self.kept):
            self.kept.append(made)
            return made
        for kept, new in zip(self.kept[layer_idx], made, strict=True):
            kept.copy_(new)
        return self.kept[layer_idx]


class _PrefixCache(Cache):
    """What a language model keeps of prefixes goes to their slots, layer by layer."""

    def __init__(self, slots: Slots, pictures: Tensor, text: TextCache) -> None:
        super().__init__(layers=[])
        self._slots, self._pictures, self._text = slots, pictures, text

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Takes (b, h, I, d) keys and values of a layer; the (b, h, P, d) are looked at."""
        count = len(self._pictures)
        keys, values = (
            torch.cat([text.expand(count, -1, -1, -1), made], dim=2)
            for text, made in zip(
                self._text.kept[layer_idx], (key_states, value_states), strict=True
            )
        )
        self._slots.write_prefixes(layer_idx, self._pictures, keys, values)
        return keys, values


@dataclass(frozen=True, slots=True)
class PrefixPlan:
    """Pictures that the language model reads, as it needs them."""

    slots: Slots
    text: TextCache
    """of the words before them"""
    tokens: Tensor
    """(b, I, H)"""
    valid: Tensor
    """(b, P): 0 on padding"""
    pictures: Tensor
    """(b,) long: their slots"""
    alike: bool
    """whether it is worth a recording"""

    @property
    def shape(self) -> object:
        """Plans of the same shape differ in what their tensors hold only."""
        return tuple(tensor.shape for tensor in self.tensors)

    @property
    def tensors(self) -> list[Tensor]:
        """What is read of it; those of plans of one shape match one by one."""
        return [self.tokens, self.valid, self.pictures]

    def run(self, language: LanguageModel) -> Tensor:
        """Reads them into their slots; what comes back is nothing."""
        self.slots.write_prefix_bias(self.pictures, self.valid)
        cache = _PrefixCache(self.slots, self.pictures, self.text)
        return language(self.tokens, self.valid, cache, keys_only=True)


def plan_prefixes(
    pictures: Sequence[Picture], slots: Slots, text: TextCache, alike: bool
) -> PrefixPlan:
    """Pictures that are encoded and have slots, as the language model needs them.

    Args:
        pictures: read at once.
        slots: theirs.
        text: of the words before them.
        alike: whether it may be recorded.
    """
    tokens, valid = join_tokens(pictures)
    words = valid.new_ones(len(pictures), slots.prefix - valid.shape[1])
    return PrefixPlan(
        slots=slots,
        text=text,
        tokens=tokens,
        valid=torch.cat([words, valid], dim=1),
        pictures=send(torch.tensor([picture.place for picture in pictures]), tokens.device),
        alike=alike and tokens.shape[0] * tokens.shape[1] <= TOKENS_ALIKE,
    )
