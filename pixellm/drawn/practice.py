"""What is asked in training: the kinds that take longest to learn more often than others."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from pixellm.drawn.questions import Question, ask, in_any_order
from pixellm.drawn.scenes import Scene

PRACTICE: Final[Mapping[str, float]] = {
    "attribute": 0.05,
    "all": 0.15,
    "superlative": 0.06,
    "relation": 0.25,
    "negation": 0.18,
    "reasoning": 0.09,
    "nothing": 0.22,
}
"""How often each kind is asked."""
RELATIONS_IN_VAIN: Final = 0.35
"""How often a question that nothing matches is a relation, the last to be answered with "no"."""


def practise(
    scene: Scene, rng: np.random.Generator, count: int, mix: Mapping[str, float] = PRACTICE
) -> list[Question]:
    """Asks `count` questions about a scene; targets are named in random order."""
    kinds = rng.choice(list(mix), p=list(mix.values()), size=count)
    return [_practise_kind(scene, rng, str(kind)) for kind in kinds]


def _practise_kind(scene: Scene, rng: np.random.Generator, kind: str) -> Question:
    way = "relation" if kind == "nothing" and rng.random() < RELATIONS_IN_VAIN else None
    return in_any_order(ask(scene, rng, kind, way), scene, rng)
