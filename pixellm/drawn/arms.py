"""The paper's ablations on drawn scenes: settings of the model that are compared with its own.

    scales        S = 1, 2, 3 features of the vision tower, and a pass of the decoder for each
    tokens        K = 1, 3, 5 codebook tokens for each scale
    fusion        how K tokens become a query: their mean, learned weights, or the last one alone
    decoder       two passes on one scale, or one pass for all tokens, in the place of two scales
    refinement    the target refinement loss, on scenes where things hide each other

Which features: the official code has hidden states -2 and -11 of CLIP's 24 layers for two scales,
and the paper does not say which a third would be. Here as there, the first is the last but one, and
each further one lies as far below the one before it (3 of 7 layers, 9 of 24), or as deep as it can.

The arms share a vision tower, a language model and the projector between them. Codebook, mask
projector, decoder and the embeddings of codebook tokens begin anew in each, from its seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pixellm.codebook import Codebook
from pixellm.drawn.bank import Bank
from pixellm.drawn.joint_stage import JointParts, JointStage, Work
from pixellm.drawn.language_stage import SpeakingParts
from pixellm.drawn.practice import PRACTICE
from pixellm.drawn.recipe import VOCABULARY, Learned, drawn_tokenizer
from pixellm.drawn.stages import IMAGES, Lessons, Stage, fill
from pixellm.drawn.start import small_config, start_model
from pixellm.drawn.vision_stage import VisionStage
from pixellm.loop import Schedule
from pixellm.model import PixelLM

Fusion = Literal["mean", "learned", "last"]
FEATURES = {1: (-2,), 2: (-2, -5), 3: (-2, -5, -7)}
"""Hidden states of the small tower's 7 layers, by the number of scales; -8 would be its input."""
SEVERAL = {"all": 0.5, "negation": 0.25, "relation": 0.25}
"""Kinds that often have several targets: without those there is nothing to refine."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One setting. The defaults are the paper's."""

    name: str
    scales: int = 2
    tokens: int = 3
    """for each scale"""
    fusion: Fusion = "mean"
    features: tuple[int, ...] = ()
    """of the scales; () for those that stand in FEATURES"""
    refinement: float = 2.0
    """weight of the target refinement loss"""
    crowded: bool = False
    """on scenes where things hide each other, asked for several"""

    @property
    def layers(self) -> tuple[int, ...]:
        """Hidden states of the vision tower that are its features."""
        return self.features or FEATURES[self.scales]

    @property
    def mix(self) -> Mapping[str, float]:
        """How often each kind of question is asked."""
        return SEVERAL if self.crowded else PRACTICE


PAPER = Arm("paper")
CROWD = Arm("crowded", crowded=True)
STUDIES: Mapping[str, tuple[Arm, tuple[Arm, ...]]] = {
    "scales": (PAPER, (Arm("scales-1", scales=1), Arm("scales-3", scales=3))),
    "tokens": (PAPER, (Arm("tokens-1", tokens=1), Arm("tokens-5", tokens=5))),
    "fusion": (
        PAPER,
        (Arm("fusion-learned", fusion="learned"), Arm("fusion-last", fusion="last")),
    ),
    "decoder": (
        PAPER,
        (Arm("decoder-one-scale", features=(-2, -2)), Arm("decoder-one-pass", scales=1, tokens=6)),
    ),
    "refinement": (CROWD, (Arm("crowded-unrefined", refinement=0.0, crowded=True),)),
}
"""Of each study: the paper's setting, and those beside it."""
ARMS = {arm.name: arm for own, others in STUDIES.values() for arm in (own, *others)}


class LearnedFusion(Codebook):
    """Weights of its own for each token of each scale; they begin as those of the mean."""

    def __init__(self, hidden: int, width: int, scales: int, tokens_per_scale: int) -> None:
        super().__init__(hidden, width, scales, tokens_per_scale)
        size = scales * tokens_per_scale
        self.shares = nn.Parameter(torch.full((scales, tokens_per_scale, 1), 1 / size))

    def fuse(self, vectors: Tensor) -> Tensor:
        """(N * S * K, D) -> (N, S, D)."""
        groups = vectors.reshape(-1, self.scales, self.tokens_per_scale, vectors.shape[-1])
        return (groups * self.shares).sum(dim=2)


class LastToken(Codebook):
    """The last token of each scale alone."""

    def fuse(self, vectors: Tensor) -> Tensor:
        """(N * S * K, D) -> (N, S, D)."""
        groups = vectors.reshape(-1, self.scales, self.tokens_per_scale, vectors.shape[-1])
        return groups[:, :, -1]


CODEBOOKS: Mapping[Fusion, type[Codebook]] = {
    "mean": Codebook,
    "learned": LearnedFusion,
    "last": LastToken,
}


def arm_model(arm: Arm, seed: int) -> PixelLM:
    """The model of an arm with its first weights, the same for the same seed."""
    config = small_config(drawn_tokenizer(arm.scales * arm.tokens).vocab_size)
    decoder = replace(config.decoder, scales=arm.scales)
    config = replace(
        config, decoder=decoder, tokens_per_scale=arm.tokens, feature_layers=arm.layers
    )
    model = start_model(config, seed)
    hidden, width = int(config.llama["hidden_size"]), config.decoder.width
    codebook = CODEBOOKS[arm.fusion](hidden, width, arm.scales, arm.tokens)
    codebook.head = model.codebook.head  # so that only the fusion is another one
    model.codebook = codebook
    return model


class ArmStages:
    """An arm where it begins: its decoder learns to cut out, then its codebook to say what.

    In one try, 300 steps on the masks of answers alone ended at an IoU of 0.06. So both lean on
    queries made from the description of a thing, as in the recipe of the small model: 250 steps of
    these alone, and the decoder was at 0.63.

    Args:
        arm: which.
        seed: of what begins anew.
        learned: gives what the recipe's stages vision, language and align have learned.
        bank: scenes to learn from.
    """

    def __init__(self, arm: Arm, seed: int, learned: Learned, bank: Bank) -> None:
        self.arm, self._bank, self._learned = arm, bank, learned
        self._tokenizer = drawn_tokenizer(arm.scales * arm.tokens)
        self._model = arm_model(arm, seed)
        self._vision = VisionStage(self._model, bank, bank, refinement=arm.refinement)
        self._seeing = self._vision.parts
        self._speaking = SpeakingParts(self._model, self._tokenizer)
        tower = learned("vision").items()
        fill(self._seeing, {name: each for name, each in tower if name.startswith("vision.")})

    def cut(self, schedule: Schedule) -> Stage:
        """The first stage: the decoder, on queries from descriptions."""
        for frozen in (self._seeing.vision, self._seeing.patch_head, self._seeing.cell_head):
            frozen.requires_grad_(False)
        lessons = Lessons(self._seeing, self._vision.cutting)
        return Stage("cut", self._model, lessons, self._seeing, schedule, IMAGES, dict)

    def join(self, schedule: Schedule, cut: Mapping[str, Tensor]) -> tuple[Stage, JointStage]:
        """The second stage: all but the vision tower, on answers; and its measures.

        Args:
            schedule: how.
            cut: what the first stage has learned.
        """
        fill(self._seeing, cut)
        fill(self._speaking, _renumbered(self._learned("language"), self._speaking))
        projector = nn.ModuleDict({"image_projector": self._model.image_projector})
        fill(projector, self._learned("align"))
        work = Work(
            questions=3,
            mask_images=4,
            masks=12,
            refinement=self.arm.refinement,
            mix=self.arm.mix,
        )
        parts = JointParts(self._model, self._seeing, self._speaking)
        banks = (self._bank, self._bank)
        joint = JointStage(self._model, self._tokenizer, parts, banks, work)
        lessons = Lessons(parts, joint.losses)
        return Stage("join", self._model, lessons, parts, schedule, IMAGES, dict), joint


def _renumbered(weights: Mapping[str, Tensor], parts: SpeakingParts) -> dict[str, Tensor]:
    """A language model's weights for another number of codebook tokens, which begin anew.

    They stand behind the pieces of the vocabulary, and before the two tokens around an image.
    """
    own, found = dict(parts.named_parameters()), dict(weights)
    for name in ("language.model.embed_tokens.weight", "language.lm_head.weight"):
        rows = own[name].detach().clone()
        rows[:VOCABULARY], rows[-2:] = weights[name][:VOCABULARY], weights[name][-2:]
        found[name] = rows
    return found
