"""A folder of drawn pictures with instructions, like a user's bucket: what the demo labels."""

import json
from pathlib import Path
from random import Random
from typing import Final

from PIL import Image

from pixellm.drawn.questions import KINDS, ask
from pixellm.drawn.scenes import DEMO_SEEDS, Scene, draw_scene, render

RECORDS_NAME: Final = "scenes.jsonl"
INSTRUCTIONS: Final = 3
"""Questions per picture."""
PNG_EVERY: Final = 4
"""Every so many pictures one is a PNG, since buckets hold both; the rest are JPEG."""
JPEG_QUALITY: Final = 95


def write_drawn_folder(folder: Path | str, count: int, seed: int, size: int = 384) -> Path:
    """Draw pictures into a folder, and write beside them what is asked about each.

    The pictures come from `DEMO_SEEDS`, on which nothing was trained.

    Args:
        folder: is made if it isn't there; files of the same names are replaced.
        count: of pictures.
        seed: which part of `DEMO_SEEDS` to draw; the same seed gives the same folder.
        size: pixels per side.

    Returns:
        The JSONL file: one line {"image": name, "instructions": [text, ...]} for every picture.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        scene = draw_scene(DEMO_SEEDS[(seed * count + index) % len(DEMO_SEEDS)])
        name = f"scene-{index:04d}.{'png' if index % PNG_EVERY == PNG_EVERY - 1 else 'jpg'}"
        picture = Image.fromarray(render(scene, size, size).rgb)
        picture.save(folder / name, quality=JPEG_QUALITY)  # a PNG has no quality and ignores it
        lines.append(json.dumps({"image": name, "instructions": _instructions(scene, index)}))
    records = folder / RECORDS_NAME
    records.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return records


def _instructions(scene: Scene, index: int) -> list[str]:
    """Different questions about one scene, of kinds that take turns from picture to picture."""
    rng = Random(scene.seed)
    texts: list[str] = []
    for turn in range(INSTRUCTIONS):
        text = ask(scene, rng, KINDS[(index * INSTRUCTIONS + turn) % len(KINDS)]).text
        if text not in texts:
            texts.append(text)
    return texts
