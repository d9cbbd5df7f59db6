"""What training the small model can be told: flags only, as for fine-tuning."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from typing_extensions import TypeAliasType

from pixellm.drawn.recipe import SCHEDULES, STAGES, Recipe, StageName, small_schedule
from pixellm.loop import Schedule
from workers.drawn.plan import DrawnPlan
from workers.settings_places import Place
from workers.settings_sources import FlagSettings

NAMES = TypeAliasType("NAMES", tuple[StageName, ...])


class DrawnSettings(FlagSettings):
    """Trains the small PixelLM of the drawn world from nothing, in five stages; on a GPU, if any.

    python jobs/train.py --recipe drawn --output out/drawn

    The result, OUTPUT/model, is what jobs/label.py takes as --model. A second start of the same
    command goes on from the newest state, wherever the first one was ended.
    """

    recipe: Literal["drawn"] = "drawn"
    """what is trained here"""
    output: Place
    """folder or s3://bucket/prefix for states, metrics and the result"""
    stages: NAMES = STAGES
    """those to run now, with commas; each begins with what those before it have learned"""
    seed: int = Field(default=Recipe().seed, ge=0)
    """first scene seed, and seed of the initial weights"""
    scenes: int = Field(default=Recipe().scenes, ge=1)
    """scenes that are rendered for training"""
    held_out: int = Field(default=Recipe().held_out, ge=1)
    """scenes behind them that draw the curve"""
    batch: int = Field(default=Recipe().images, ge=1)
    """scenes of a batch, with eight questions about each; steps and rates of the recipe are for
    8, and on a GPU a step with four times as many takes little longer"""
    vision_steps: int = Field(default=SCHEDULES["vision"].steps, ge=1)
    """batches that teach the vision tower to describe, and the decoder to cut out"""
    vision_rate: float = Field(default=SCHEDULES["vision"].rate, gt=0)
    """highest learning rate of that stage"""
    words_steps: int = Field(default=SCHEDULES["words"].steps, ge=1)
    """batches that teach a language model of 5 layers to answer"""
    words_rate: float = Field(default=SCHEDULES["words"].rate, gt=0)
    """highest learning rate of that stage"""
    language_steps: int = Field(default=SCHEDULES["language"].steps, ge=1)
    """batches after 3 layers more came in"""
    language_rate: float = Field(default=SCHEDULES["language"].rate, gt=0)
    """highest learning rate of that stage"""
    align_steps: int = Field(default=SCHEDULES["align"].steps, ge=1)
    """batches that let the projector take the place of written image tokens"""
    align_rate: float = Field(default=SCHEDULES["align"].rate, gt=0)
    """highest learning rate of that stage"""
    joint_steps: int = Field(default=SCHEDULES["joint"].steps, ge=1)
    """batches that train all but the vision tower together"""
    joint_rate: float = Field(default=SCHEDULES["joint"].rate, gt=0)
    """highest learning rate of that stage"""
    save_every: int = Field(default=250, ge=1)
    """steps between two states, from which a run that was killed goes on"""
    evaluate_every: int = Field(default=500, ge=1)
    """steps between two points of the curve"""
    accumulate: int = Field(default=1, ge=1)
    """batches that each process has of a step, all of them with scenes of their own"""
    num_workers: int = Field(default=0, ge=0)
    """processes that learn together on Ray: on the cluster that RAY_ADDRESS names, as in a job,
    else on this machine. A step has the batches of all of them; steps and rates of the recipe are
    for one batch. 0: this process, without Ray"""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of a process; without it 2, or a worker's share of this machine"""
    cache: Path = Path("~/.cache/pixellm/drawn")
    """local folder for rendered scenes, 64 KB each"""

    @model_validator(mode="after")
    def _refuse_scenes_of_scores(self) -> Self:
        try:
            self.plan  # noqa: B018
        except ValueError as error:
            raise ValueError(f"--seed {self.seed}: {error}") from error
        return self

    @property
    def plan(self) -> DrawnPlan:
        """The same in the words of `workers.drawn`."""
        schedules: dict[str, Schedule] = {
            name: small_schedule(getattr(self, f"{name}_steps"), getattr(self, f"{name}_rate"))
            for name in STAGES
        }
        return DrawnPlan(
            output=self.output,
            recipe=Recipe(self.seed, self.scenes, self.held_out, self.batch, schedules),
            stages=tuple(name for name in STAGES if name in self.stages),
            save_every=self.save_every,
            evaluate_every=self.evaluate_every,
            accumulate=self.accumulate,
        )
