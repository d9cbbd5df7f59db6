"""Drawn scenes as tensors: a bank of pictures that is rendered once, and batches from it.

Shapes: B images of a batch, M things of all of them together, A attributes, s canvas side.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixellm.drawn.scenes import (
    COLOURS,
    SIZES,
    TEXTURES,
    TRAIN_SEEDS,
    Scene,
    cell_of,
    draw_scene,
    mirror,
    render,
    require_seeds,
)
from pixellm.drawn.shapes import SHAPES
from pixellm.images import PIXEL_MEAN, PIXEL_STD

ATTRIBUTES: tuple[tuple[str, ...], ...] = (tuple(SIZES), tuple(COLOURS), TEXTURES, SHAPES)
"""The words of each attribute, in the order in which a full name says them."""
NOTHING = 255
"""In an owner map: no thing is seen at this pixel."""
Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""(n, s, s, 3) pictures and (n, s, s) owner maps."""


@dataclass(frozen=True, slots=True)
class Described:
    """The things of a batch, flattened."""

    codes: Tensor
    """(M, A) long: index of each thing's word in ATTRIBUTES."""
    where: Tensor
    """(M, 3) float: x, y and radius, as parts of the canvas side."""
    image_of: Tensor
    """(M,) long."""
    first: tuple[int, ...]
    """Index of the first thing of each image."""

    def to(self, device: torch.device) -> "Described":
        """The same on a device."""
        codes, where, image_of = (x.to(device) for x in (self.codes, self.where, self.image_of))
        return Described(codes, where, image_of, self.first)


@dataclass(frozen=True, slots=True)
class DrawnBatch:
    """Some scenes of the bank, as the model takes them."""

    index: NDArray[np.int64]
    """(B,) places in the bank."""
    mirrored: NDArray[np.bool_]
    """(B,) whether left and right were swapped."""
    scenes: tuple[Scene, ...]
    things: Described

    def to(self, device: torch.device) -> "DrawnBatch":
        """The same on a device, where its pictures will be, too."""
        return replace(self, things=self.things.to(device))


def describe(scenes: Sequence[Scene]) -> Described:
    """The things of some scenes as codes and places."""
    codes: list[list[int]] = []
    where, image_of, first = [], [], []
    for index, scene in enumerate(scenes):
        first.append(len(codes))
        for thing in scene.things:
            words = (thing.size, thing.colour, thing.texture, thing.shape)
            codes.append([names.index(w) for names, w in zip(ATTRIBUTES, words, strict=True)])
            where.append([thing.x, thing.y, thing.radius])
            image_of.append(index)
    return Described(torch.tensor(codes), torch.tensor(where), torch.tensor(image_of), tuple(first))


@dataclass(frozen=True, slots=True)
class Cells:
    """Where the things lie in the language model's view of their images."""

    thing: Tensor
    """(B, grid * grid) long: the thing whose centre lies in each cell, or -1."""
    of_thing: Tensor
    """(M,) long: the cell of each thing."""


def find_cells(scenes: Sequence[Scene], things: Described, grid: int) -> Cells:
    """The cells of all things of a batch, on the device of their descriptions."""
    device = things.image_of.device
    found = [cell_of(thing, grid) for scene in scenes for thing in scene.things]
    of_thing = torch.tensor(found, device=device)
    thing = torch.full((len(scenes), grid * grid), -1, device=device)
    thing[things.image_of, of_thing] = torch.arange(len(found), device=device)
    return Cells(thing, of_thing)


class Bank:
    """Rendered scenes: pictures and owner maps.

    Args:
        seeds: of the scenes.
        side: pixels per side.
        folder: in which they are kept between runs, and from which they are mapped into memory;
            None: they are drawn now, and held.
        allowed: where the seeds must lie.

    Raises:
        ValueError: a seed lies elsewhere.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        side: int,
        folder: Path | None = None,
        allowed: range = TRAIN_SEEDS,
    ) -> None:
        require_seeds(seeds, allowed)
        self.side = side
        self.scenes = [draw_scene(one) for one in seeds]
        self.rgb, self.owner = self._kept(folder) if folder else self._render()

    @property
    def count(self) -> int:
        """Of scenes."""
        return len(self.scenes)

    def _kept(self, folder: Path) -> Arrays:
        seeds = [scene.seed for scene in self.scenes]
        name = sha256(f"{self.side} {seeds}".encode()).hexdigest()[:16]
        paths = [folder / f"{kind}-{name}.npy" for kind in ("rgb", "owner")]
        if not self._are_there(paths):
            folder.mkdir(parents=True, exist_ok=True)
            for path, array in zip(paths, self._render(), strict=True):
                part = path.with_suffix(f".{os.getpid()}.part.npy")  # each worker may write it
                np.save(part, array)
                part.replace(path)
        rgb, owner = (np.load(path, mmap_mode="r") for path in paths)
        return rgb, owner

    def _are_there(self, paths: Sequence[Path]) -> bool:
        """Whether the files are those of these scenes, as this version of the world draws them."""
        if not all(path.exists() for path in paths):
            return False
        last = render(self.scenes[-1], self.side, self.side)
        return bool(np.array_equal(np.load(paths[0], mmap_mode="r")[-1], last.rgb))

    def _render(self) -> Arrays:
        rgb = np.empty((self.count, self.side, self.side, 3), np.uint8)
        owner = np.full((self.count, self.side, self.side), NOTHING, np.uint8)
        for row, scene in enumerate(self.scenes):
            drawing = render(scene, self.side, self.side)
            rgb[row] = drawing.rgb
            for index, mask in enumerate(drawing.masks):
                owner[row][mask] = index
        return rgb, owner

    def sample(self, rng: np.random.Generator, size: int) -> DrawnBatch:
        """Some scenes, each mirrored or not by the toss of a coin."""
        return self.take(rng.integers(self.count, size=size), rng.random(size) < 0.5)

    def take(self, index: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> DrawnBatch:
        """The named scenes."""
        scenes = tuple(
            mirror(self.scenes[i]) if m else self.scenes[i]
            for i, m in zip(index, mirrored, strict=True)
        )
        return DrawnBatch(index, mirrored, scenes, describe(scenes))

    def pixels(self, batch: DrawnBatch) -> Tensor:
        """(B, 3, s, s) float, normalised as `pixellm.images.prepare_image` does."""
        device = batch.things.image_of.device
        rgb = torch.from_numpy(_flip(self.rgb, batch)).to(device).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(each, device=device) for each in (PIXEL_MEAN, PIXEL_STD))
        return (rgb - mean[:, None, None]) / std[:, None, None]

    def owners(self, batch: DrawnBatch) -> Tensor:
        """(B, s, s) uint8: index of the scene's thing that is seen at each pixel, or NOTHING."""
        return torch.from_numpy(_flip(self.owner, batch)).to(batch.things.image_of.device)


def _flip(array: NDArray[np.uint8], batch: DrawnBatch) -> NDArray[np.uint8]:
    rows = [
        array[i, :, ::-1] if m else array[i]
        for i, m in zip(batch.index, batch.mirrored, strict=True)
    ]
    return np.ascontiguousarray(np.stack(rows))


def patch_owners(owners: Tensor, things: Described, grid: int) -> Tensor:
    """(B, s, s) -> (B, grid * grid) long: index of the thing at each patch's centre, or -1."""
    step = owners.shape[-1] // grid
    middle = owners[:, step // 2 :: step, step // 2 :: step].flatten(1).long()
    start = torch.tensor(things.first, device=owners.device)[:, None]
    return torch.where(middle == NOTHING, -1, middle + start)


def masks_of(owners: Tensor, things: Described, chosen: Tensor) -> Tensor:
    """(N,) flattened thing indices -> (N, s, s) bool masks of what is visible of them."""
    image = things.image_of[chosen]
    local = chosen - torch.tensor(things.first, device=chosen.device)[image]
    return owners[image] == local[:, None, None]


def overlaps(seen: Tensor, truth: Tensor) -> Tensor:
    """(N, s, s) bool twice -> (N,) intersection over union of each pair."""
    return (seen & truth).sum((1, 2)) / (seen | truth).sum((1, 2)).clamp(min=1)
