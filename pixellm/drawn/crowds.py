"""Scenes in which things lie before each other more than usual."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from pixellm.drawn.scenes import CHECK_SIDE, Scene, draw_scene, pose_of
from pixellm.drawn.shapes import solid

CROWDED = 0.2
"""Hidden share from which a scene is crowded: about one scene in six."""


def hidden_share(scene: Scene) -> float:
    """How much of its things the others hide, as parts of each thing's area, added up."""
    total = 0.0
    masks = [
        solid(thing.shape, pose_of(thing, CHECK_SIDE, CHECK_SIDE), CHECK_SIDE)
        for thing in scene.things
    ]
    for index, mask in enumerate(masks):
        before = np.any([mask & other for other in masks[index + 1 :]], axis=0)
        total += float(np.count_nonzero(before)) / np.count_nonzero(mask)
    return total


def crowded_seeds(seeds: range, count: int) -> list[int]:
    """The first seeds of a range whose scenes are crowded."""
    return list(islice(_crowded(seeds), count))


def _crowded(seeds: range) -> Iterator[int]:
    return (seed for seed in seeds if hidden_share(draw_scene(seed)) >= CROWDED)
