"""What the contestants are asked: images with questions, and who answers them.

Every workload is laid out for 1, 4 and 16 instructions per image, with the same number of questions
each time. Where answers are given, the questions and answers are the same ones each time, asked
about fewer images; drawn scenes have questions of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import pixellm
from pixellm.answers import DecodeSettings
from pixellm.checkpoints import Checkpoint, load_checkpoint
from pixellm.config import DecoderSizes, PixelLMConfig
from pixellm.drawn.questions import ask
from pixellm.drawn.scenes import TEST_SEEDS, Scene, draw_scene, render
from pixellm.engine.rows import Sample
from pixellm.images import PreparedImage, prepare_image
from pixellm.model import PixelLM
from pixellm.tiny import CORPUS, LETTERS, VOCABULARY, tiny_checkpoint
from pixellm.tokenizer import Tokenizer, train_tokenizer
from tests.benchmarks.options import OptionError
from tests.benchmarks.padded import BATCH
from tests.benchmarks.speech import Speaker, Speech, Tail, tail_of

SHIPPED = Path(pixellm.__file__).parent / "shipped" / "drawn"
INSTRUCTIONS = (1, 4, 16)
"""Per image."""
PHOTO = (480, 640)
"""Height and width of the images of random models, as those of COCO are."""
TOY_PHOTO = (30, 52)
"""So flat that some image tokens of the tiny model lie in the padding."""
WORDS = tuple(word for line in CORPUS for word in line.split() if word.isalpha())
SEED = 12
"""Of everything that is drawn at random here."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Questions that each contestant takes care of in one turn; the slow ones do fewer."""

    ours: int
    official: int
    cached: int
    padded: int
    batch: int = BATCH
    """questions of a padded batch"""
    once: bool = False
    """Whether the official way and its gentler variant have one turn for all instructions per image
    together: they cost the same, and here they would take very long."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A model and what it is asked."""

    title: str
    speaker: Speaker
    rounds: Mapping[int, Sequence[Sample]]
    """by instructions per image"""
    shares: Shares


# ---- the model that comes with the project ----


def shipped(questions: int | None) -> Workload:
    """Drawn scenes and their real questions, answered as the shipped model likes."""
    shares = Shares(ours=questions or 128, official=16, cached=32, padded=64)
    checkpoint = load_checkpoint(SHIPPED)
    side = checkpoint.model.config.image_side
    speaker = make_speaker(checkpoint, DecodeSettings(max_new_tokens=80))

    def sample(number: int, count: int) -> Sample:
        scene = draw_scene(TEST_SEEDS[number])
        rng = np.random.default_rng([7, scene.seed])
        image = prepare_image(render(scene, side, side).rgb, side)
        return Sample(image, tuple(ask(scene, rng).text for _ in range(count)))

    return Workload("the shipped model", speaker, _rounds(shares.ours, sample), shares)


# ---- a random one of middle size ----


def middle(questions: int | None) -> Workload:
    """MUSE-like answers that are given: the model is random and would say nothing sensible.

    LLaMA 512 x 8, CLIP 256 x 8, images as the released model has them (448 pixels, patches of 14,
    16 x 16 image tokens, masks of 128 x 128). The pixel decoder is a quarter as wide as the
    released one in all its parts: 64, its MLP 512. The vocabulary is tiny, so the output layer
    costs next to nothing: that is to the advantage of who runs it on all positions.
    """
    shares = Shares(ours=questions or 128, official=2, cached=16, padded=32, once=True)
    tokenizer = make_tokenizer()
    model = random_model(middle_config(tokenizer))
    checkpoint = Checkpoint(model, tokenizer, "")
    return _scripted("a random model of middle size", checkpoint, shares, PHOTO, question=40)


def make_tokenizer() -> Tokenizer:
    """That of the tiny model, for two scales of three tokens."""
    return train_tokenizer((*CORPUS, LETTERS), VOCABULARY, 6)


def middle_config(tokenizer: Tokenizer) -> PixelLMConfig:
    """The sizes of the model of middle size; 300 positions come before the question."""
    rng = np.random.default_rng(SEED)
    return PixelLMConfig(
        llama={
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "vocab_size": tokenizer.vocab_size,
            "hidden_act": "silu",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        clip={
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "image_size": 448,
            "patch_size": 14,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        image_side=448,
        decoder=DecoderSizes(width=64, mlp=512, scales=2),
        tokens_per_scale=3,
        feature_layers=(-2, -5),
        system_text=make_text(tokenizer, 38, rng),
    )


def random_model(config: PixelLMConfig) -> PixelLM:
    """Weights that keep what goes through them at its size, so that everything matters."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        model = PixelLM(config)
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and not name.startswith("vision.clip.embeddings"):
                nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        nn.init.normal_(model.language.model.embed_tokens.weight)
    return model.eval()


# ---- tiny ones, to try the benchmark itself ----


def toy(questions: int | None) -> Workload:
    """The tiny model in its own words, about images that are not square."""
    shares = Shares(ours=questions or 16, official=2, cached=16, padded=16, batch=8)
    checkpoint = tiny_checkpoint(6)
    # a random model may break a token group off, and nothing forces a baseline to end it
    speaker = make_speaker(checkpoint, DecodeSettings(max_new_tokens=30, forced_groups=False))
    side = checkpoint.model.config.image_side

    def sample(number: int, count: int) -> Sample:
        rng = np.random.default_rng([SEED, number])
        image = draw_photo(number, TOY_PHOTO if number % 2 else TOY_PHOTO[::-1], side)
        texts = tuple(make_text(checkpoint.tokenizer, 8 + at % 5, rng) for at in range(count))
        return Sample(image, texts)

    return Workload("a toy", speaker, _rounds(shares.ours, sample), shares)


def toy_scripted(questions: int | None) -> Workload:
    """The tiny model with answers that are given."""
    shares = Shares(ours=questions or 16, official=2, cached=16, padded=16, batch=8, once=True)
    checkpoint = tiny_checkpoint(0, max_positions=512)
    return _scripted("a toy, scripted", checkpoint, shares, TOY_PHOTO, question=12)


WORKLOADS: Mapping[str, Callable[[int | None], Workload]] = {"shipped": shipped, "middle": middle}
TOYS: Mapping[str, Callable[[int | None], Workload]] = {"own": toy, "scripted": toy_scripted}


# ---- what they are made of ----


def make_speaker(
    checkpoint: Checkpoint,
    settings: DecodeSettings,
    scripts: Mapping[Tail, Sequence[int]] | None = None,
) -> Speaker:
    """A model and what decides what it says."""
    speech = Speech(checkpoint.model.language.lm_head, scripts)
    return Speaker(checkpoint, settings, speech)


def _rounds(
    questions: int, sample: Callable[[int, int], Sample]
) -> Mapping[int, tuple[Sample, ...]]:
    """The same number of questions, about more and fewer images.

    Args:
        questions: in each round; a multiple of the most instructions per image.
        sample: makes an image by its number, with so many questions.
    """
    if questions % max(INSTRUCTIONS):
        raise OptionError(f"--questions {questions}: must be a multiple of {max(INSTRUCTIONS)}")
    return {n: tuple(sample(at, n) for at in range(questions // n)) for n in INSTRUCTIONS}


def _scripted(
    title: str, checkpoint: Checkpoint, shares: Shares, photo: tuple[int, int], question: int
) -> Workload:
    """Questions of about `question` ids, each with an answer of its own."""
    scripts: dict[Tail, Sequence[int]] = {}
    speaker = make_speaker(checkpoint, DecodeSettings(), scripts)
    side = checkpoint.model.config.image_side

    def sample(number: int, count: int) -> Sample:
        texts = []
        for at in range(number * count, (number + 1) * count):
            rng = np.random.default_rng([SEED, at])
            texts.append(make_text(checkpoint.tokenizer, question, rng))
            scripts[tail_of(speaker.prompt(texts[-1]))] = make_answer(checkpoint.tokenizer, rng)
        return Sample(draw_photo(number, photo, side), tuple(texts))

    return Workload(title, speaker, _rounds(shares.ours, sample), shares)


def make_text(tokenizer: Tokenizer, ids: int, rng: np.random.Generator) -> str:
    """Known words in any order, as long as so many ids."""
    text = ""
    while len(tokenizer.encode(text, bos=False)) < ids:
        text = f"{text} {rng.choice(WORDS)}".strip()
    return text


def make_answer(tokenizer: Tokenizer, rng: np.random.Generator) -> list[int]:
    """Ids of an answer as long as those of MUSE: on average 3.7 targets and 84 ids, the end too."""
    ids = list[int]()
    for _ in range(1 + rng.binomial(7, 2.7 / 7)):
        words = rng.integers(9, 25)  # 16.5 on average: some 14 words of a larger vocabulary
        ids += rng.integers(tokenizer.eos_id + 1, VOCABULARY, words).tolist()
        ids += tokenizer.seg_ids
    return [*ids, tokenizer.eos_id]


def draw_photo(number: int, size: tuple[int, int], side: int) -> PreparedImage:
    """A drawn scene as the model of a side sees it.

    Args:
        number: of the scene.
        size: height and width in pixels.
        side: of the model's square.
    """
    scene: Scene = draw_scene(TEST_SEEDS[number])
    return prepare_image(render(scene, *size).rgb, side)
