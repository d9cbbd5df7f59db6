"""The recipe of the small PixelLM of the drawn world: its stages, and how each of them begins.

    vision    the vision tower learns to describe patches, the decoder to cut out what is described
    words     a shallow language model learns to answer about tokens that are written, not seen
    language  it is made deeper, and goes on learning to
    align     the projector learns to write such tokens from what the vision tower sees
    joint     everything but the vision tower learns together, masks included

A stage begins with what those before it have learned, and with new weights that follow from the
seed; so it begins the same wherever it is begun.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor, nn

from pixellm.checkpoints import official_state
from pixellm.drawn.bank import Bank
from pixellm.drawn.joint_stage import JointParts, JointStage, work_of
from pixellm.drawn.language_stage import LanguageStage, SpeakingParts
from pixellm.drawn.questions import corpus
from pixellm.drawn.scenes import TRAIN_SEEDS, require_seeds
from pixellm.drawn.stages import IMAGES, Lessons, Stage, fill
from pixellm.drawn.start import LAYERS, SHALLOW_LAYERS, deepen, small_config, start_model
from pixellm.drawn.vision_stage import SeeingParts, VisionStage
from pixellm.loop import Schedule
from pixellm.model import PixelLM
from pixellm.tokenizer import Tokenizer, train_tokenizer

StageName = Literal["vision", "words", "language", "align", "joint"]
STAGES: tuple[StageName, ...] = get_args(StageName)
"""In the order in which they are run."""
NEEDS = {
    "vision": (),
    "words": (),
    "language": ("words",),
    "align": ("vision", "words", "language"),
    "joint": ("vision", "words", "language", "align"),
}
"""What must be done before each: what it begins with, and what that began with."""
VOCABULARY = 600
"""Sentencepiece pieces: the drawn world's words whole, and bytes for everybody else's."""
CLEAR_SHARE = 0.5
"""Share of the words stage in which background cells come into view."""
LANGUAGE_SCENES = 50_000_000
"""Scenes that the language stages draw from; their curve's lie behind these."""

Learned = Callable[[str], Mapping[str, Tensor]]
"""The averaged weights of a stage that is done, by their names among its parts."""


def small_schedule(steps: int, rate: float) -> Schedule:
    """How a stage learns: few batches from nothing, so faster than the paper's, and averaged."""
    return Schedule(
        steps=steps,
        rate=rate,
        shape="cosine",
        floor=0.02,
        betas=(0.9, 0.98),
        decay=0.05,
        average=0.998,
    )


SCHEDULES = {
    "vision": small_schedule(2_900, 2e-3),
    "words": small_schedule(3_700, 1.5e-3),
    "language": small_schedule(1_350, 1e-3),
    "align": small_schedule(400, 2e-3),
    "joint": small_schedule(4_600, 8e-4),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides how the small model comes out.

    Raises:
        ValueError: its scenes would be among those that scores are measured on.
    """

    seed: int = 0
    """first scene seed, and seed of the initial weights"""
    scenes: int = 16_000
    """that are rendered to train on"""
    held_out: int = 128
    """scenes behind them that draw the curve"""
    images: int = IMAGES
    """scenes of a batch; the align stage has twice as many"""
    schedules: Mapping[str, Schedule] = field(default_factory=lambda: dict(SCHEDULES))
    """of each stage"""

    def __post_init__(self) -> None:
        """Keeps training away from the scenes of the scores."""
        require_seeds((self.seed, self.seed + self.scenes + self.held_out), TRAIN_SEEDS)


@cache
def drawn_tokenizer(groups: int = 6) -> Tokenizer:
    """A tokenizer trained on the drawn world's texts: the same ids wherever it is trained.

    Args:
        groups: codebook tokens of a target, scales times tokens per scale.
    """
    texts = (f"USER: {text} ASSISTANT: {text}" for text in corpus(20_000, seed=0))
    return train_tokenizer(texts, VOCABULARY, groups)


class Beginnings:
    """How the stages of one recipe begin.

    Args:
        recipe: which.
        cache: local folder in which rendered scenes are kept.
    """

    def __init__(self, recipe: Recipe, cache: Path) -> None:
        self.recipe, self._cache = recipe, cache
        self.tokenizer = drawn_tokenizer()

    @cached_property
    def digest(self) -> str:
        """Of the weights and the vocabulary with which everything begins.

        They follow from the seed, but may be others with another version of a library.
        """
        ids = [self.tokenizer.encode(text) for text in corpus(100, seed=1)]
        found = sha256(f"{ids}".encode())
        for name, value in sorted(official_state(self._model()).items()):
            found.update(name.encode() + value.numpy().tobytes())
        return found.hexdigest()

    def stage(self, name: str, learned: Learned) -> Stage:
        """The stage of a name, where it begins.

        Args:
            name: one of STAGES.
            learned: gives what the stages before it have learned.
        """
        match name:
            case "vision":
                return self._vision()
            case "words":
                return self._words()
            case "language":
                return self._language(learned)
            case "align":
                return self._align(learned)
            case "joint":
                return self._joint(learned)
        raise ValueError(f"{name!r} is no stage; they are {', '.join(STAGES)}")

    def _vision(self) -> Stage:
        model = self._model()
        stage = VisionStage(model, *self._banks, self.recipe.images)
        return self._ready("vision", model, Lessons(stage.parts, stage.losses), stage.evaluate)

    def _words(self) -> Stage:
        """It sees no picture, so it needs no bank."""
        model = self._model(SHALLOW_LAYERS)
        stage = self._speaking(model, CLEAR_SHARE)
        return self._ready("words", model, Lessons(stage.parts, stage.losses), stage.evaluate)

    def _language(self, learned: Learned) -> Stage:
        model = self._model()
        stage = self._speaking(model)
        shallow = SpeakingParts(self._model(SHALLOW_LAYERS), self.tokenizer)
        fill(shallow, learned("words"))
        deepen(shallow.language, stage.parts.language)
        stage.parts.symbols.load_state_dict(shallow.symbols.state_dict())
        stage.parts.pointers.load_state_dict(shallow.pointers.state_dict())
        return self._ready("language", model, Lessons(stage.parts, stage.losses), stage.evaluate)

    def _align(self, learned: Learned) -> Stage:
        model = self._model()
        stage = self._together(model, learned)
        lessons = Lessons(_projector(model), stage.alignment)
        scenes = stage.work.align_images
        return self._ready("align", model, lessons, dict, scenes=scenes, parts=stage.parts)

    def _joint(self, learned: Learned) -> Stage:
        model = self._model()
        stage = self._together(model, learned)
        fill(_projector(model), learned("align"))
        return self._ready("joint", model, Lessons(stage.parts, stage.losses), stage.evaluate)

    def _together(self, model: PixelLM, learned: Learned) -> JointStage:
        """The parts of the vision and language stages, as they left them."""
        seeing, speaking = SeeingParts(model), SpeakingParts(model, self.tokenizer)
        fill(seeing, learned("vision"))
        fill(speaking, learned("language"))
        parts = JointParts(model, seeing, speaking)
        return JointStage(model, self.tokenizer, parts, self._banks, work_of(self.recipe.images))

    def _speaking(self, model: PixelLM, clear_share: float = 0.0) -> LanguageStage:
        held_out, images = self.recipe.held_out, self.recipe.images
        scenes = LANGUAGE_SCENES
        return LanguageStage(model, self.tokenizer, scenes, held_out, images, clear_share)

    def _model(self, layers: int = LAYERS) -> PixelLM:
        return start_model(small_config(self.tokenizer.vocab_size, layers=layers), self.recipe.seed)

    def _ready(
        self,
        name: str,
        model: PixelLM,
        lessons: Lessons,
        evaluate: Callable[[], Mapping[str, float]],
        *,
        scenes: int | None = None,
        parts: nn.Module | None = None,
    ) -> Stage:
        return Stage(
            name,
            model,
            lessons,
            parts or lessons.parts,
            self.recipe.schedules[name],
            scenes or self.recipe.images,
            evaluate,
        )

    @cached_property
    def _banks(self) -> tuple[Bank, Bank]:
        """Rendered scenes to train on, and some behind them for the curve."""
        first, behind = self.recipe.seed, self.recipe.seed + self.recipe.scenes
        side = small_config(self.tokenizer.vocab_size).image_side
        return (
            Bank(range(first, behind), side, self._cache),
            Bank(range(behind, behind + self.recipe.held_out), side, self._cache),
        )


def _projector(model: PixelLM) -> nn.Module:
    return nn.ModuleDict({"image_projector": model.image_projector})
