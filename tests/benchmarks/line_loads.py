"""What the part `line` asks: real pictures of the model's world, or small ones of nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pixellm.checkpoints import Checkpoint, save_checkpoint
from pixellm.drawn.questions import ask
from pixellm.drawn.scenes import TEST_SEEDS, draw_scene, render
from pixellm.tiny import tiny_checkpoint
from tests.benchmarks.clocked import MANY_AT_ONCE, QUESTION_SECONDS
from tests.benchmarks.inputs import (
    PHOTO,
    SHIPPED,
    TOY_PHOTO,
    make_tokenizer,
    middle_config,
    random_model,
)
from workers.wording import counted

LIST = "list.jsonl"


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked, and whom."""

    title: str
    folder: Path
    """with `LIST`, and the images that it names"""
    model: Path
    """that the replicas load, also where another one answers in its place"""
    asleep: int
    """questions of a step of this other one, which sleeps; 0 where the real model answers"""
    shard: int
    """most records of a shard"""
    tokens: int
    """of the longest answer"""
    replicas: int = 2
    """that share the records"""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"{self.title}, {counted(self.replicas, 'replica')}"

    def records(self) -> list[tuple[Path, tuple[str, ...]]]:
        """Images, and what is asked about each."""
        lines = (self.folder / LIST).read_text(encoding="utf-8").splitlines()
        values = [json.loads(line) for line in lines]
        return [(self.folder / each["image"], tuple(each["instructions"])) for each in values]


def make_bound(folder: Path, toy: bool) -> Load:
    """The shipped model: it is so small that reading and encoding cost a tenth of it."""
    count, each = (12, 2) if toy else (256, 16)
    _draw(folder, count, each, TOY_PHOTO if toy else PHOTO)
    if not toy:
        title = f"the shipped model, {each} instructions per image"
        return Load(title, folder, SHIPPED, asleep=0, shard=8, tokens=80)
    model = _save(tiny_checkpoint(6), folder)
    return Load("a toy", folder, model, asleep=0, shard=3, tokens=20)


def make_large(folder: Path, toy: bool) -> Load:
    """A random model of middle size, which answers with as many ids as it may: all but bound."""
    count, each = (6, 2) if toy else (24, 16)
    _draw(folder, count, each, TOY_PHOTO if toy else PHOTO)
    if toy:
        model = _save(tiny_checkpoint(7), folder)
        return Load("another toy", folder, model, asleep=0, shard=3, tokens=20)
    tokenizer = make_tokenizer()
    model = _save(Checkpoint(random_model(middle_config(tokenizer)), tokenizer, ""), folder)
    title = f"a random model of middle size, {each} instructions per image"
    return Load(title, folder, model, asleep=0, shard=4, tokens=60)


def _draw(folder: Path, count: int, each: int, size: tuple[int, int]) -> None:
    """Scenes as large as photos, and what is asked of them."""
    lines = []
    for number in range(count):
        scene = draw_scene(TEST_SEEDS[number])
        rng = np.random.default_rng([7, scene.seed])
        name = f"{number:04d}.jpg"
        Image.fromarray(render(scene, *size).rgb).save(folder / name, quality=90)
        lines.append((name, [ask(scene, rng).text for _ in range(each)]))
    _write_list(folder, lines)


def make_sleeping(folder: Path, toy: bool) -> Load:
    """Many small records with one question each, for a model that sleeps over one at a time.

    Every question is a step of its own, so whatever delays Python between two steps is lost.
    """
    return _make_asleep(folder, toy, 1)


def make_deep(folder: Path, toy: bool) -> Load:
    """Likewise, for a model whose steps take many questions, and last as long with fewer.

    What a step costs around the model is shared by its questions. Ours takes many steps for an
    answer, with other questions in each: this one takes all of it in one.
    """
    return _make_asleep(folder, toy, MANY_AT_ONCE)


def _make_asleep(folder: Path, toy: bool, at_once: int) -> Load:
    count = 200 if toy else 8_000
    names = [f"{number:02d}.png" for number in range(64)]
    for number, name in enumerate(names):
        Image.new("RGB", (32, 24), (number * 4, 255 - number * 4, 128)).save(folder / name)
    lines = [(names[at % len(names)], [f"the thing number {at}"]) for at in range(count)]
    _write_list(folder, lines)
    title = f"a model that sleeps {1000 * QUESTION_SECONDS:g} ms a question"
    if at_once > 1:
        title = (
            f"a model that sleeps {1000 * at_once * QUESTION_SECONDS:g} ms over up to {at_once}"
            " questions"
        )
    return Load(title, folder, SHIPPED, asleep=at_once, shard=8 if toy else 64, tokens=80)


def _write_list(folder: Path, lines: Sequence[tuple[str, Sequence[str]]]) -> None:
    texts = [json.dumps({"image": name, "instructions": asked}) for name, asked in lines]
    (folder / LIST).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def _save(checkpoint: Checkpoint, folder: Path) -> Path:
    save_checkpoint(checkpoint.model, checkpoint.tokenizer, folder / "_model")
    return folder / "_model"
