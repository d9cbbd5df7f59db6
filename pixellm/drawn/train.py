"""Trains the small PixelLM of the drawn world from nothing, on a CPU.

    python -m pixellm.drawn.train --output out/drawn

Stages, in this order; each stands in a file of the output folder and goes on where it stopped when
the same command is given again:

    vision    the vision tower learns to describe patches, the decoder to cut out what is described
    words     a shallow language model learns to answer about tokens that are written, not seen
    language  it is made deeper, and goes on learning to
    align     the projector learns to write such tokens from what the vision tower sees
    joint     everything but the vision tower learns together, masks included

The result is OUTPUT/model, a folder that jobs/label.py takes, and OUTPUT/curve.jsonl.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from pixellm.checkpoints import save_checkpoint
from pixellm.drawn.bank import Bank
from pixellm.drawn.joint_stage import JointParts, JointStage
from pixellm.drawn.language_stage import LanguageStage
from pixellm.drawn.loop import Loop, Schedule
from pixellm.drawn.questions import corpus
from pixellm.drawn.scenes import TRAIN_SEEDS, require_seeds
from pixellm.drawn.start import LAYERS, SHALLOW_LAYERS, deepen, small_config, start_model
from pixellm.drawn.vision_stage import VisionStage
from pixellm.model import PixelLM
from pixellm.tokenizer import Tokenizer, train_tokenizer

VOCABULARY = 600
"""Sentencepiece pieces: the drawn world's words whole, and bytes for everybody else's."""
STAGES = ("vision", "words", "language", "align", "joint")
CLEAR_SHARE = 0.5
"""Share of the words stage in which background cells come into view."""
LANGUAGE_SCENES = 50_000_000
"""Scenes that the language stages draw from; their curve's lie behind these."""
ALIGN_RATE = 2e-3


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the stages that are asked for, and writes the model when the last one is among them."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    training = Training(options)
    for stage in STAGES:
        if stage in options.stages:
            getattr(training, stage)()


SCHEDULE = (
    ("vision", 2_900, 2e-3, "teaches the vision tower to describe, the decoder to cut out"),
    ("words", 3_700, 1.5e-3, "teaches a language model of 5 layers to answer"),
    ("language", 1_350, 1e-3, "adds 3 layers, and targets in any order"),
    ("align", 400, None, "lets projectors take the place of written image tokens"),
    ("joint", 4_600, 8e-4, "trains all but the vision tower together"),
)
"""Of each stage: name, steps, learning rate, and what it is for."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Trains the small PixelLM of the drawn world, in stages. A stage that was cut "
        "off goes on where its last state was written.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        required=True,
        help="folder of states, curve and result (must be given)",
    )
    add("--stages", nargs="+", choices=STAGES, default=STAGES, help="those to run now")
    add("--seed", type=int, default=0, help="first scene seed, and seed of the initial weights")
    add("--scenes", type=int, default=16_000, help="scenes that are rendered for training")
    add("--held-out", type=int, default=128, help="scenes behind them that draw the curve")
    add("--threads", type=int, default=2, help="CPU threads")
    for stage, steps, rate, what in SCHEDULE:
        add(f"--{stage}-steps", type=int, default=steps, help=f"batches of the stage that {what}")
        if rate is not None:  # else it is ALIGN_RATE
            add(f"--{stage}-rate", type=float, default=rate, help="its highest learning rate")
    options = parser.parse_args(arguments)
    try:
        require_seeds((options.seed, options.seed + options.scenes + options.held_out), TRAIN_SEEDS)
    except ValueError as error:
        parser.error(f"--seed {options.seed}: {error}")
    return options


def drawn_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder, trained on the drawn world's texts when it isn't there yet."""
    if not folder.exists():
        texts = (f"USER: {text} ASSISTANT: {text}" for text in corpus(20_000, seed=0))
        train_tokenizer(texts, VOCABULARY, groups=6).save(folder)
    return Tokenizer.from_folder(folder)


class Training:
    """One model on its way through the stages."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, options.output
        self.tokenizer = drawn_tokenizer(self.folder / "tokenizer")
        self.model: PixelLM = start_model(small_config(self.tokenizer.vocab_size), options.seed)

    def banks(self) -> tuple[Bank, Bank]:
        """Rendered scenes to train on, and some behind them for the curve."""
        o, side, folder = self.options, self.model.config.image_side, self.folder / "bank"
        return Bank(o.scenes, side, folder, o.seed), Bank(
            o.held_out, side, folder, o.seed + o.scenes
        )

    def vision(self) -> None:
        """Stage 1."""
        stage = VisionStage(self.model, *self.banks())
        schedule = Schedule(self.options.vision_steps, self.options.vision_rate)
        Loop("vision", stage.parts, schedule, self.folder).run(stage.losses, stage.evaluate)

    def words(self) -> None:
        """Stage 2. It sees no picture, so it needs no bank."""
        stage = self._speaking_stage(SHALLOW_LAYERS, CLEAR_SHARE)
        schedule = Schedule(self.options.words_steps, self.options.words_rate)
        Loop("words", stage.parts, schedule, self.folder).run(stage.losses, stage.evaluate)

    def language(self) -> None:
        """Stage 3."""
        stage, shallow = self._speaking_stage(LAYERS), self._speaking_stage(SHALLOW_LAYERS).parts
        load_average(self.folder / "words.pt", shallow)
        deepen(shallow.language, stage.parts.language)
        stage.parts.symbols.load_state_dict(shallow.symbols.state_dict())
        stage.parts.pointers.load_state_dict(shallow.pointers.state_dict())
        schedule = Schedule(self.options.language_steps, self.options.language_rate)
        Loop("language", stage.parts, schedule, self.folder).run(stage.losses, stage.evaluate)

    def _speaking_stage(self, layers: int, clear_share: float = 0.0) -> LanguageStage:
        config = small_config(self.tokenizer.vocab_size, layers=layers)
        model = self.model if layers == LAYERS else start_model(config, self.options.seed)
        return LanguageStage(
            model, self.tokenizer, LANGUAGE_SCENES, self.options.held_out, clear_share
        )

    def align(self) -> None:
        """Stage 4."""
        stage = self._joint_stage()
        learning = nn.ModuleDict({"image_projector": stage.parts.image_projector})
        schedule = Schedule(self.options.align_steps, ALIGN_RATE)
        Loop("align", learning, schedule, self.folder).run(stage.alignment, lambda _: {})

    def joint(self) -> None:
        """Stage 5, and the model folder."""
        stage = self._joint_stage()
        aligned = nn.ModuleDict({"image_projector": stage.parts.image_projector})
        load_average(self.folder / "align.pt", aligned)
        schedule = Schedule(self.options.joint_steps, self.options.joint_rate)
        loop = Loop("joint", stage.parts, schedule, self.folder)
        average = loop.run(stage.losses, stage.evaluate)
        stage.parts.load_state_dict(average.state_dict())
        save_checkpoint(self.model, self.tokenizer, self.folder / "model")

    def _joint_stage(self) -> JointStage:
        """The parts of the vision and language stages, as they left them."""
        banks = self.banks()
        seeing = VisionStage(self.model, *banks).parts
        load_average(self.folder / "vision.pt", seeing)
        speaking = self._speaking_stage(LAYERS).parts
        load_average(self.folder / "language.pt", speaking)
        parts = JointParts(self.model, seeing, speaking)
        return JointStage(self.model, self.tokenizer, parts, banks)


def load_average(path: Path, parts: nn.Module) -> None:
    """Loads the averaged weights of a finished or running stage."""
    parts.load_state_dict(torch.load(path, weights_only=True)["average"])


if __name__ == "__main__":
    main()
