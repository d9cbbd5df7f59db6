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

    def digest(self, stage: str, begins: str, world: int) -> str:
        """Of all that decides what a stage learns: a state of another digest is of another run.

        Args:
            stage: its name.
            begins: digest of the first weights (`Beginnings.digest`).
            world: how many workers learn; each of them draws its own scenes.
        """
        recipe = self.recipe
        decides = {
            "begins": begins,
            "world": world,
            "scenes": recipe.scenes,
            "seed": recipe.seed,
            "stages": {name: asdict(recipe.schedules[name]) for name in (*NEEDS[stage], stage)},
        }
        return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
