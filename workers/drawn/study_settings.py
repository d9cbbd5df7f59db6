"""What a study of ablations can be told."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from typing_extensions import TypeAliasType

from pixellm.drawn.arms import ARMS
from workers.drawn.study import StudyPlan, base_recipe
from workers.settings_places import Place
from workers.settings_sources import FlagSettings


def _arm(name: str) -> str:
    if name not in ARMS:
        raise ValueError(f"there is no arm {name!r}; they are {', '.join(ARMS)}")
    return name


ARM_NAMES = TypeAliasType("ARM_NAMES", tuple[Annotated[str, AfterValidator(_arm)], ...])


class AblateSettings(FlagSettings):
    """Repeats the paper's ablations on drawn scenes, with little training and several seeds.

    python jobs/ablate.py --output out/ablation

    A second start goes on where the first one was ended. The table is made of all results of
    these settings in the output. When the base is there, several starts may share the work: give
    each other --arms.
    """

    output: Place
    """folder or s3://bucket/prefix for states, results and the table"""
    arms: ARM_NAMES = tuple(ARMS)
    """settings to run now, with commas"""
    seeds: int = Field(default=3, ge=1)
    """trainings of each, from seed 0 on"""
    steps: int = Field(default=250, ge=1)
    """batches from which the decoder of each learns, and then as many for its codebook and words"""
    scenes: int = Field(default=4_000, ge=1)
    """scenes that all learn from"""
    held_out: int = Field(default=100, ge=1)
    """scenes that scores are of, with four questions each"""
    base_share: float = Field(default=0.5, gt=0, le=1)
    """share of the small model's own steps that vision tower and language model learn in, before
    all arms begin with them"""
    save_every: int = Field(default=100, ge=1)
    """steps of an arm between two states"""
    threads: int = Field(default=1, ge=1)
    """CPU threads"""
    cache: Path = Path("~/.cache/pixellm/drawn")
    """local folder for rendered scenes, 64 KB each"""

    @property
    def plan(self) -> StudyPlan:
        """The same in the words of `workers.drawn`."""
        return StudyPlan(
            output=self.output,
            base=base_recipe(self.base_share),
            arms=self.arms,
            seeds=tuple(range(self.seeds)),
            steps=self.steps,
            scenes=self.scenes,
            held_out=self.held_out,
            save_every=self.save_every,
        )
