"""What training the small model does; the same on each of its workers."""

import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256

from pixellm.drawn.recipe import NEEDS, STAGES, Recipe


@dataclass(frozen=True, slots=True)
class DrawnPlan:
    """A recipe, and which of its stages are run now."""

    output: str
    """of states, metrics and the result"""
    recipe: Recipe = field(default_factory=Recipe)
    stages: tuple[str, ...] = STAGES
    """those to run now, in the recipe's order"""
    save_every: int = 250
    """steps between two states: one or two minutes of work on a core"""
    evaluate_every: int = 500
    """steps between two evaluations"""
    accumulate: int = 1
    """batches that each worker has of a step"""

    def digest(self, stage: str, begins: str, world: int) -> str:
        """Of all that decides what a stage learns: a state of another digest is of another run.

        Args:
            stage: its name.
            begins: digest of the first weights (`Beginnings.digest`).
            world: how many workers learn. It counts only how many batches a step has, not who
                learns from which: as many with more or fewer workers are the same run.
        """
        recipe = self.recipe
        decides = {
            "begins": begins,
            "world": self.accumulate * world,  # as it was called when each had one batch
            "scenes": recipe.scenes,
            "batch": recipe.images,
            "seed": recipe.seed,
            "stages": {name: asdict(recipe.schedules[name]) for name in (*NEEDS[stage], stage)},
        }
        return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
