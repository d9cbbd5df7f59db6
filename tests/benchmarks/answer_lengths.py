"""Answers of given lengths: what is asked, what is said, and which shapes the masks have.

A random model says nothing and draws noise. So its words are given, and behind the pixel decoder
its masks are: all layers are paid for, but what follows is like the real thing. (Masks of noise
have some 20,000 runs, those of things a few hundred: cutting them would look too slow.)

Shapes: N states or targets, H width of the language model, V vocabulary, m side of the low masks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pixellm.config import PixelLMConfig
from pixellm.engine.rows import Sample
from pixellm.engine.steps import Wanted
from pixellm.images import PreparedImage
from pixellm.model import LowMasks
from pixellm.prompts import prompt_ids
from pixellm.tiny import VOCABULARY
from pixellm.tokenizer import Tokenizer
from tests.benchmarks.inputs import SEED, draw_photo, make_answer, make_text
from tests.benchmarks.speech import FORCED, tail_of

Script = Sequence[int]
"""Ids of an answer, the end token included."""
IMAGES = 16
"""Different ones; they come round again, and are encoded each time."""
SHAPES = 64
"""Different masks: as many as the pixel decoder makes at once."""
SMALLEST, LARGEST = 0.01, 0.25
"""Share of an image that a mask covers; in between, sizes are even on a logarithmic scale."""
STEEPNESS = 8.0
"""Logit in the middle of a shape."""


def make_single(tokenizer: Tokenizer, rng: np.random.Generator) -> Script:
    """One target: 17 ids on average, 10 of them words."""
    return _write(tokenizer, rng, targets=1, words=(7, 14))


def make_long(tokenizer: Tokenizer, rng: np.random.Generator) -> Script:
    """8 to 14 targets as MUSE's: 248 ids on average, half of the most that an answer may have."""
    return _write(tokenizer, rng, targets=int(rng.integers(8, 15)), words=(9, 25))


def _write(
    tokenizer: Tokenizer, rng: np.random.Generator, targets: int, words: tuple[int, int]
) -> Script:
    ids = list[int]()
    for _ in range(targets):
        ids += rng.integers(tokenizer.eos_id + 1, VOCABULARY, rng.integers(*words)).tolist()
        ids += tokenizer.seg_ids
    return [*ids, tokenizer.eos_id]


KINDS: Mapping[str, Callable[[Tokenizer, np.random.Generator], Script]] = {
    "single": make_single,
    "muse": make_answer,
    "long": make_long,
}
"""MUSE's have 84 ids and 3.7 targets on average; the other two lie on either side of that."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Images with questions, and what is answered to each."""

    samples: Sequence[Sample]
    scripts: Sequence[Script]
    """of all questions, in order"""


def make_images(config: PixelLMConfig, size: tuple[int, int]) -> list[PreparedImage]:
    """Drawn scenes of (height, width) pixels."""
    return [draw_photo(number, size, config.image_side) for number in range(IMAGES)]


def ask(
    kind: str,
    instructions: int,
    *,
    images: Sequence[PreparedImage],
    texts: Sequence[str],
    tokenizer: Tokenizer,
) -> Asked:
    """Questions about images.

    Args:
        kind: of the answers, of `KINDS`.
        instructions: per image.
        images: taken in turn.
        texts: questions; so many are asked that all are, and every image has as many.
        tokenizer: of the model.
    """
    count = -(-len(texts) // instructions) * instructions
    rngs = [np.random.default_rng([SEED, number]) for number in range(count)]
    asked = [texts[number % len(texts)] for number in range(count)]
    samples = [
        Sample(images[at % len(images)], tuple(asked[start : start + instructions]))
        for at, start in enumerate(range(0, count, instructions))
    ]
    return Asked(samples, [KINDS[kind](tokenizer, rng) for rng in rngs])


def make_exact_text(tokenizer: Tokenizer, ids: int, number: int = 0) -> str:
    """Known words in any order that are exactly so many ids; each number has its own."""
    rng = np.random.default_rng([SEED, number])
    for _ in range(1000):  # every second text or so has the length
        text = make_text(tokenizer, ids, rng)
        if len(tokenizer.encode(text, bos=False)) == ids:
            return text
    raise AssertionError(f"no words make {ids} ids")


def make_questions(tokenizer: Tokenizer, system: str, length: int, count: int) -> list[str]:
    """Texts with which `length` ids of a prompt stand behind its image.

    Args:
        tokenizer: of the model.
        system: text of the prompt before "USER:".
        length: of what belongs to a question.
        count: of questions.
    """
    around = len(tail_of(prompt_ids(tokenizer, "", system)))
    return [make_exact_text(tokenizer, length - around, number) for number in range(count)]


class Forced:
    """Says scripts in turn, question by question, and pays for the output layer all the same.

    Args:
        head: the model's output layer.
        scripts: question q of the engine says script q; after the last the first comes again.
    """

    def __init__(self, head: nn.Module, scripts: Sequence[Script]) -> None:
        self._head, self._scripts = head, scripts

    def script_of(self, number: int) -> Script:
        """What question `number` of the engine is answered with."""
        return self._scripts[number % len(self._scripts)]

    def __call__(self, states: Tensor, wanted: Sequence[Wanted]) -> Tensor:
        """(N, H) -> (N, V)."""
        ids = torch.tensor([[self.script_of(each.row.number)[each.index]] for each in wanted])
        if states.is_cuda:  # from pinned memory nobody waits for it: it adds nothing to a step
            ids = ids.pin_memory().to(states.device, non_blocking=True)
        logits: Tensor = self._head(states)
        return logits.scatter_(1, ids, FORCED)


class Shapes:
    """Low masks as those of things: ellipses of many sizes, in the valid part of the square.

    Args:
        config: of the model.
        image: that has the frame of all images.
        like: has the device and precision of the masks.
    """

    def __init__(self, config: PixelLMConfig, image: PreparedImage, like: Tensor) -> None:
        side, rng = config.mask_side, np.random.default_rng(SEED)
        height, width = (side * valid / config.image_side for valid in image.resized)
        shares = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), SHAPES))
        stretch = np.exp(rng.uniform(-0.5, 0.5, SHAPES))  # of height over width
        tall = np.sqrt(shares * height * width / np.pi) * stretch
        wide = np.sqrt(shares * height * width / np.pi) / stretch
        middle = rng.uniform(0.25, 0.75, (2, SHAPES)) * [[height], [width]]
        y, x = np.mgrid[:side, :side] + 0.5
        off = [
            ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2
            for cy, cx, a, b in zip(*middle, tall, wide, strict=True)
        ]
        logits = STEEPNESS * (1 - np.sqrt(np.array(off)))
        self.logits = torch.tensor(logits, dtype=torch.float32).to(like)  # (SHAPES, m, m)

    def instead(self, decode: Callable[..., LowMasks]) -> Callable[..., LowMasks]:
        """Does what a decoder does, and then gives these masks for its own."""

        def wrapped(*arguments: Any) -> LowMasks:
            low = decode(*arguments)
            assert len(low.logits) <= SHAPES, "more targets at once than there are shapes"
            return replace(low, logits=self.logits[: len(low.logits)])

        return wrapped
