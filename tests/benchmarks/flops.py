"""The part `flops`: what an answer of PixelLM-7B costs, counted, and what a design with SAM would.

Every number is counted by torch's FlopCounterMode while the real modules run on the meta device:
two operations per multiply-add, attention in full (no half for the causal mask), nothing for norms,
activations and resizing. Two lines beside each other:

    PixelLM    this repository's modules at the released sizes
    with SAM   the same vision tower, image projector and language model; but SAM ViT-H (1024
               pixels) and its mask decoder in place of mask projector and pixel decoder, and one
               segmentation token per target, as LISA has it

Both share what several instructions on an image have in common: image, system text and image tokens
are paid for once. Letters: n instructions per image.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, SamConfig, SamModel

from pixellm.checkpoints import empty_model
from pixellm.config import PixelLMConfig
from pixellm.model import PixelLM
from pixellm.tiny import tiny_checkpoint
from tests.benchmarks.inputs import INSTRUCTIONS
from tests.benchmarks.options import Options
from tests.benchmarks.report import Table
from tests.benchmarks.sizes import released_config, sam_config, small_sam_config
from tests.benchmarks.timing import say, significant

PREFIX, QUESTION = 300, 40
"""Positions before the question (system text, image) and of it."""
TARGETS, WORDS = 3.7, 61
"""Of an answer like MUSE's: targets, and ids that are neither of a token group nor the end."""
SUMMARY = (
    "The paper's own table of TFLOPs was not at hand. A summary of the paper, not the paper itself"
    ' (alphaxiv.org/overview/2312.02228), says "reducing computational overhead by up to 50%'
    ' compared to existing methods": a ratio of up to 2.'
)
COLUMNS = (
    "instructions per image",
    "design",
    "vision",
    "projectors",
    "prefill",
    "decode",
    "masks",
    "all, TFLOP a question",
    "with SAM : PixelLM",
)


@dataclass(frozen=True, slots=True)
class Costs:
    """Operations of each stage."""

    vision: float
    """CLIP, of an image"""
    image_projector: float
    """of an image"""
    mask_projector: float
    """of an image, all scales"""
    maps: float
    """the pixel decoder's neck and upscaling, of an image"""
    prefix: float
    """the language model before the question, of an image"""
    question: float
    """the language model, of a question; and its output layer, once"""
    first_id: float
    """reading one id right behind the question, and the output layer"""
    later: float
    """what reading an id costs more for every id that lies further behind"""
    codebook: float
    """of a target"""
    target: float
    """the pixel decoder, of a target"""

    def decode(self, ids: float) -> float:
        """Reading so many ids one after the other."""
        return ids * self.first_id + self.later * ids * (ids - 1) / 2


def count(run: Callable[[], object]) -> float:
    """Operations of a computation."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def count_pixellm(model: PixelLM, prefix: int, question: int) -> Costs:
    """Counts every stage of a model on the meta device.

    Args:
        model: on meta.
        prefix: positions before the question.
        question: positions of it.
    """
    config, meta = model.config, partial(torch.zeros, device="meta")
    clip, hidden = int(config.clip["hidden_size"]), int(config.llama["hidden_size"])
    pixels, valid = (meta(1, *c, *[config.image_side] * 2) for c in ((3,), ()))
    features = [meta(1, config.grid**2, clip)] * config.scales
    projected = [meta(1, config.grid**2, hidden)] * config.scales
    small = meta(1, config.image_tokens, clip)
    states = meta(config.group_size, hidden)
    queries, image_of = meta(1, config.scales, config.decoder.width), meta(1, dtype=torch.long)
    maps = model.decoder.maps(projected)
    read = partial(count_reading, model)
    first, second = read(prefix + question, 1), read(prefix + question + 1, 1)
    head = count(lambda: model.language.lm_head(meta(1, hidden)))
    return Costs(
        vision=count(lambda: model.vision(pixels, valid)),
        image_projector=count(lambda: model.image_projector(small)),
        mask_projector=count(lambda: [model.mask_projector(each) for each in features]),
        maps=count(lambda: model.decoder.maps(projected)),
        prefix=read(0, prefix),
        question=read(prefix, question) + head,
        first_id=first + head,
        later=second - first,
        codebook=count(lambda: model.codebook(states)),
        target=count(lambda: model.decode(maps, queries, image_of)),
    )


def count_reading(model: PixelLM, past: int, new: int) -> float:
    """Operations of the language model on `new` positions behind `past` cached ones."""
    language = model.language
    hidden, config = language.model.config.hidden_size, language.model.config
    meta = partial(torch.zeros, device="meta")
    cache = DynamicCache(config=config)
    heads = config.num_key_value_heads
    if past:
        for layer in range(config.num_hidden_layers):
            kept = meta(1, heads, past, hidden // config.num_attention_heads)
            cache.update(kept, kept, layer)
    keys = torch.ones(1, past + new, device="meta")
    return count(lambda: language(meta(1, new, hidden), keys, cache))


@dataclass(frozen=True, slots=True)
class SamCosts:
    """Operations of SAM."""

    image: float
    target: float


def count_sam(config: SamConfig) -> SamCosts:
    """Counts SAM's image encoder, and its mask decoder with one embedded prompt."""
    with torch.device("meta"):
        sam = SamModel(config).eval()
    vision: Any = config.vision_config
    decoder: Any = config.mask_decoder_config
    side, width, meta = vision.image_size, decoder.hidden_size, partial(torch.zeros, device="meta")
    grid = side // vision.patch_size
    plane, prompt = meta(1, width, grid, grid), meta(1, 1, 1, width)
    return SamCosts(
        image=count(lambda: sam.vision_encoder(meta(1, 3, side, side))),
        target=count(
            lambda: sam.mask_decoder(
                image_embeddings=plane,
                image_positional_embeddings=plane,
                sparse_prompt_embeddings=prompt,
                dense_prompt_embeddings=plane,
                multimask_output=False,
            )
        ),
    )


# ---- the table ----


@dataclass(frozen=True, slots=True)
class Answering:
    """Operations of one question with its share of the image, by stage."""

    vision: float
    projectors: float
    prefill: float
    decode: float
    masks: float

    @property
    def total(self) -> float:
        """All stages."""
        return self.vision + self.projectors + self.prefill + self.decode + self.masks


def cost_of_pixellm(costs: Costs, group: int, n: int) -> Answering:
    """One of n questions about an image.

    Args:
        costs: of the stages.
        group: tokens of a target.
        n: instructions per image.
    """
    return Answering(
        vision=costs.vision / n,
        projectors=(costs.image_projector + costs.mask_projector) / n,
        prefill=costs.prefix / n + costs.question,
        decode=costs.decode(WORDS + group * TARGETS),
        masks=costs.maps / n + TARGETS * (costs.codebook + costs.target),
    )


def cost_with_sam(costs: Costs, sam: SamCosts, group: int, n: int) -> Answering:
    """The same question to a design with SAM; arguments as in `cost_of_pixellm`."""
    return Answering(
        vision=costs.vision / n,
        projectors=costs.image_projector / n,
        prefill=costs.prefix / n + costs.question,
        decode=costs.decode(WORDS + TARGETS),
        masks=sam.image / n + TARGETS * (costs.codebook / group + sam.target),
    )


def run(options: Options) -> Iterator[Table]:
    """One table."""
    config = tiny_checkpoint(0).model.config if options.toy else released_config()
    model = meta_model(config)
    say("counting the operations of PixelLM, and then those of SAM: half a minute")
    costs = count_pixellm(model, PREFIX, QUESTION)
    sam = count_sam(small_sam_config() if options.toy else sam_config())
    yield make_table(costs, sam, config.group_size, "a toy" if options.toy else "PixelLM-7B")


def meta_model(config: PixelLMConfig) -> PixelLM:
    """A model of a size, without weights."""
    return empty_model(config, dtype=torch.float32, device="meta").eval()


def make_table(costs: Costs, sam: SamCosts, group: int, title: str) -> Table:
    """What came out, in TFLOP a question."""
    rows, raw = list[list[str]](), dict[str, list[float]]()
    for n in INSTRUCTIONS:
        ours = cost_of_pixellm(costs, group, n)
        other = cost_with_sam(costs, sam, group, n)
        for name, each in (("PixelLM", ours), ("with SAM", other)):
            ratio = f"{each.total / ours.total:.2f}"
            numbers = [*asdict(each).values(), each.total]
            rows.append([str(n), name, *(significant(value / 1e12) for value in numbers), ratio])
            raw[f"{name}, {n} per image"] = numbers
    raw |= {f"stage: {name}": [value] for name, value in asdict(costs).items()}
    raw |= {f"SAM: {name}": [value] for name, value in asdict(sam).items()}
    return Table(f"Operations counted: {title}", COLUMNS, rows, _notes(costs, sam), raw)


def _notes(costs: Costs, sam: SamCosts) -> list[str]:
    return [
        "TFLOP a question, two operations per multiply-add, counted by torch's FlopCounterMode on"
        f" the meta device; {PREFIX} positions before the question, {QUESTION} of it, an answer of"
        f" {WORDS} ids, {TARGETS} targets and their token groups. Raw numbers are operations, not"
        " seconds.",
        "What all instructions on an image have in common is shared by them, in both designs.",
        "with SAM: SAM ViT-H and its mask decoder in place of mask projector and pixel decoder, one"
        f" segmentation token per target: {sam.image / 1e12:.2f} T an image and"
        f" {sam.target / 1e12:.4f} T a target.",
        f"PixelLM by stage: vision {costs.vision / 1e12:.3f} T, image projector"
        f" {costs.image_projector / 1e12:.3f} T, mask projector {costs.mask_projector / 1e12:.3f} T"
        f" and neck {costs.maps / 1e12:.3f} T an image; {costs.prefix / 1e12:.2f} T before the"
        f" question, {costs.question / 1e12:.3f} T for it, {costs.first_id / 1e9:.1f} G for an id;"
        f" codebook and pixel decoder {(costs.codebook + costs.target) / 1e12:.4f} T a target.",
        SUMMARY,
    ]
