"""What the part `line` asks: real pictures of the model's world, or small ones of nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm.checkpoints import save_checkpoint
from pixellm.drawn.questions import ask
from pixellm.drawn.scenes import TEST_SEEDS, draw_scene, render
from pixellm.tiny import tiny_checkpoint
from tests.benchmarks.clocked import QUESTION_SECONDS
from tests.benchmarks.inputs import PHOTO, SHIPPED, TOY_PHOTO

LIST = "list.jsonl"


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked, and whom."""

    title: str
    folder: Path
    """with `LIST`, and the images that it names"""
    model: Path
    """that the replicas load, also where another one answers in its place"""
    asleep: bool
    """whether that other one answers, which sleeps"""
    shard: int
    """most records of a shard"""
    tokens: int
    """of the longest answer"""

    def records(self) -> list[tuple[Path, tuple[str, ...]]]:
        """Images, and what is asked about each."""
        lines = (self.folder / LIST).read_text(encoding="utf-8").splitlines()
        values = [json.loads(line) for line in lines]
        return [(self.folder / each["image"], tuple(each["instructions"])) for each in values]


def make_bound(folder: Path, toy: bool) -> Load:
    """Drawn scenes of the size of photos, with many questions each: the model is the bottleneck."""
    count, each, size = (12, 2, TOY_PHOTO) if toy else (256, 16, PHOTO)
    lines = []
    for number in range(count):
        scene = draw_scene(TEST_SEEDS[number])
        rng = np.random.default_rng([7, scene.seed])
        name = f"{number:04d}.jpg"
        Image.fromarray(render(scene, *size).rgb).save(folder / name, quality=90)
        lines.append((name, [ask(scene, rng).text for _ in range(each)]))
    _write_list(folder, lines)
    if not toy:
        title = f"the shipped model, {each} instructions per image"
        return Load(title, folder, SHIPPED, asleep=False, shard=8, tokens=80)
    return Load("a toy", folder, _save_tiny(folder), asleep=False, shard=3, tokens=20)


def make_sleeping(folder: Path, toy: bool) -> Load:
    """Many small records with one question each, for a model that sleeps over it."""
    count = 200 if toy else 8_000
    names = [f"{number:02d}.png" for number in range(64)]
    for number, name in enumerate(names):
        Image.new("RGB", (32, 24), (number * 4, 255 - number * 4, 128)).save(folder / name)
    lines = [(names[at % len(names)], [f"the thing number {at}"]) for at in range(count)]
    _write_list(folder, lines)
    title = f"a model that sleeps {1000 * QUESTION_SECONDS:g} ms a question"
    return Load(title, folder, SHIPPED, asleep=True, shard=8 if toy else 64, tokens=80)


def _write_list(folder: Path, lines: Sequence[tuple[str, Sequence[str]]]) -> None:
    texts = [json.dumps({"image": name, "instructions": asked}) for name, asked in lines]
    (folder / LIST).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def _save_tiny(folder: Path) -> Path:
    tiny = tiny_checkpoint(6)
    save_checkpoint(tiny.model, tiny.tokenizer, folder / "_model")
    return folder / "_model"
