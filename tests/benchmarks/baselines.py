"""One question at a time: the official way, a gentler one, and a cached one.

All are written from PixelLM's own modules, so weights and arithmetic are ours; what differs is what
is computed again. They do less than the engine in one thing: no phrases, scores and run lengths.

    official      every new id runs CLIP, all projectors and the language model over everything
                  again, and the output layer on all positions; the codebook's layers see all
                  positions, too, and CLIP runs once more for the pixel decoder
    encoded once  the same, but the image is encoded once per question
    cached        the image is encoded once per sample, keys and values are kept, and the output
                  layer sees the last position only

Shapes: P positions of a prompt with its image, T of all that is read, G ids of an answer, N
targets, H width of the language model, D width of the decoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from pixellm.answers import find_groups
from pixellm.engine.rows import Sample
from pixellm.images import PreparedImage
from pixellm.masks import postprocess_masks
from pixellm.model import EncodedImages
from pixellm.vision import nearest_resize, shrink_for_language, valid_pixels
from tests.benchmarks.speech import Speaker, tail_of


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """An answer, as far as all contestants give one."""

    ids: tuple[int, ...]
    """new ids, with the end token when the answer ended by itself"""
    masks: NDArray[np.bool_]
    """(N, h0, w0)"""


# ---- without a cache ----


@torch.inference_mode()
def answer_officially(speaker: Speaker, samples: Sequence[Sample]) -> list[Said]:
    """The official way; one answer per question, in order."""
    model, said = speaker.model, list[Said]()
    for image, question in _pairs(samples):
        prompt = speaker.prompt(question)
        ids, hidden = _reread(speaker, prompt, partial(_look, speaker, image))
        projected = [model.mask_projector(each) for each in _features(speaker, image)]
        maps = tuple(model.decoder.maps(projected))
        said.append(_finish_reread(speaker, prompt, ids, hidden, maps, image))
    return said


@torch.inference_mode()
def answer_encoded_once(speaker: Speaker, samples: Sequence[Sample]) -> list[Said]:
    """The official way, but an image is encoded once for each of its questions."""
    said = list[Said]()
    for image, question in _pairs(samples):
        prompt = speaker.prompt(question)
        seen = speaker.model.encode_images(image.pixels[None], [image.resized])
        ids, hidden = _reread(speaker, prompt, partial(_look_back, seen))
        said.append(_finish_reread(speaker, prompt, ids, hidden, seen.maps, image))
    return said


def _pairs(samples: Sequence[Sample]) -> list[tuple[PreparedImage, str]]:
    return [(sample.image, question) for sample in samples for question in sample.questions]


def _features(speaker: Speaker, image: PreparedImage) -> list[Tensor]:
    valid = valid_pixels([image.resized], speaker.model.config.image_side)
    return speaker.model.vision(image.pixels[None], valid)


def _look(speaker: Speaker, image: PreparedImage) -> EncodedImages:
    """What every official step computes of an image. It has no maps: those come at the end."""
    model, config = speaker.model, speaker.model.config
    features = _features(speaker, image)
    for each in features:
        model.mask_projector(each)  # at every step, and nobody reads it
    valid = nearest_resize(valid_pixels([image.resized], config.image_side), config.grid)
    return EncodedImages(
        tokens=model.image_projector(shrink_for_language(features[0], config.llm_grid)),
        token_valid=nearest_resize(valid, config.llm_grid).flatten(1),
        maps=(),
    )


def _look_back(seen: EncodedImages) -> EncodedImages:
    """What was computed of an image before."""
    return seen


def _reread(
    speaker: Speaker, prompt: Sequence[int], look: Callable[[], EncodedImages]
) -> tuple[list[int], Tensor]:
    """Greedy decoding that reads everything again for every id.

    Returns:
        The ids, and the states (T, H) of the last reading.
    """
    ids, budget, image_of = list[int](), speaker.budget(prompt), torch.tensor([0])
    while True:
        read = torch.tensor([[*prompt, *ids]])
        hidden = speaker.model.read(read, torch.ones_like(read), look(), image_of)[0]
        logits = speaker.speech.head(hidden)[-1:]  # of all positions, though one is looked at
        ids.append(_say(speaker, logits, prompt, len(ids)))
        if speaker.has_ended(ids, budget):
            return ids, hidden


def _finish_reread(
    speaker: Speaker,
    prompt: Sequence[int],
    ids: Sequence[int],
    hidden: Tensor,
    maps: tuple[Tensor, ...],
    image: PreparedImage,
) -> Said:
    vectors = speaker.model.codebook.head(hidden)  # (T, D), of all positions
    vectors = vectors[speaker.length(prompt) - 1 :]  # a state predicts the next id
    return _finish(speaker, ids, speaker.model.codebook.fuse, vectors, maps, image)


# ---- with a cache ----


@torch.inference_mode()
def answer_cached(speaker: Speaker, samples: Sequence[Sample]) -> list[Said]:
    """Keys and values are kept while an answer is made; one answer per question, in order."""
    said = list[Said]()
    for sample in samples:
        image = sample.image
        seen = speaker.model.encode_images(image.pixels[None], [image.resized])
        for question in sample.questions:
            ids, states = _continue(speaker, speaker.prompt(question), seen)
            said.append(_finish(speaker, ids, speaker.model.codebook, states, seen.maps, image))
    return said


def _continue(
    speaker: Speaker, prompt: Sequence[int], seen: EncodedImages
) -> tuple[list[int], Tensor]:
    """Greedy decoding with a cache.

    Returns:
        The ids, and the states (G, H) that predicted them.
    """
    model, language = speaker.model, speaker.model.language
    read = torch.tensor([prompt])
    embeds = language.splice(read, seen.tokens)
    keys = model.key_mask(read, torch.ones_like(read), seen.token_valid)
    cache = DynamicCache(config=language.model.config)
    ids, states, budget = list[int](), list[Tensor](), speaker.budget(prompt)
    while True:
        states.append(language(embeds, keys, cache)[:, -1])
        ids.append(_say(speaker, speaker.speech.head(states[-1]), prompt, len(ids)))
        if speaker.has_ended(ids, budget):
            return ids, torch.cat(states)
        embeds = language.embed(torch.tensor([ids[-1:]]))
        keys = torch.cat([keys, torch.ones_like(keys[:, :1])], dim=1)


# ---- both ----


def _say(speaker: Speaker, logits: Tensor, prompt: Sequence[int], index: int) -> int:
    """The id of (1, V) logits."""
    return int(speaker.speech.force(logits, [tail_of(prompt)], [index]).argmax())


def _finish(
    speaker: Speaker,
    ids: Sequence[int],
    codebook: Callable[[Tensor], Tensor],
    states: Tensor,
    maps: tuple[Tensor, ...],
    image: PreparedImage,
) -> Said:
    """Makes the masks of one answer.

    Args:
        speaker: the model.
        ids: of the answer.
        codebook: (N * S * K, ?) -> (N, S, D) queries.
        states: (G or more, ?), one for each id.
        maps: of the image, for the decoder.
        image: that was asked about.
    """
    picks = places_of_groups(speaker, ids)
    if not picks:
        return Said(tuple(ids), np.zeros((0, *image.original), dtype=bool))
    queries = codebook(states[picks])
    low = speaker.model.decode(maps, queries, torch.zeros(len(queries), dtype=torch.long))
    return Said(tuple(ids), cut_plainly(speaker, low.logits, image))


def places_of_groups(speaker: Speaker, ids: Sequence[int]) -> list[int]:
    """Indices of the ids of all token groups of an answer."""
    groups, _ = find_groups(ids, speaker.tokenizer.seg_ids)
    return [place for group in groups for place in group.positions]


def cut_plainly(speaker: Speaker, low: Tensor, image: PreparedImage) -> NDArray[np.bool_]:
    """(N, m, m) logits -> (N, h0, w0), at full size all the way."""
    side = speaker.model.config.image_side
    return (postprocess_masks(low, image.resized, image.original, side) > 0).numpy()
