"""Fine-tunes the shipped model on real photos of a few domains, and scores it before and after.

    python -m tests.domains --data FOLDER --output out/domains --minutes 50

FOLDER holds a folder for each domain, with `images` and their masks as COCO in `instances.json`.
Everything is done by the commands that a user types; they are printed. A photo belongs to those
that are learned from, or to those that are scored, by a hash of its bytes (80 to 20).

    photos -> learn.json, score.json -> jobs/convert.py -> jobs/label.py (before)
           -> jobs/train.py -> jobs/label.py (after) -> jobs/evaluate.py -> outcome.json, sheet.png

What `tests/domain_results` keeps of them stands in the README.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from tests.readme_domains import table
from tests.readme_tree import ROOT
from workers.labels.parts import open_table
from workers.storage.stores import open_store
from workers.training.examples import Split

Json = dict[str, Any]
HELD_OUT = 0.2
CROP, MOST_NUCLEI, CROPS = 128, 8, 2
"""Of a microscope picture: pixels of a crop's side, nuclei in it at most, and crops at most."""
CARDS = 6
"""Answers on a sheet."""
METRICS = ("giou_union", "giou", "f1", "exact", "nothing_accuracy")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a domain is learned."""

    steps: int
    rate: float = 5e-4
    batch: int = 8
    absent: int = 1
    """categories that a photo has not, and is asked for"""
    views: str = "mirrored"
    mask_of: str = "instance"
    """or `category`: where the origin tells no instances apart, or an answer can't hold them"""


RECIPES = {
    "coco_cc": Recipe(steps=3000, absent=2),
    "hydroponic_plants": Recipe(steps=2500, absent=0),
    "facades": Recipe(steps=2500, mask_of="category"),
    "aerial_dubai": Recipe(steps=2500, views="turned", mask_of="category"),
    "nuclei_dsb2018": Recipe(steps=2500, absent=0, views="turned"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out for a domain."""

    domain: str
    mask_of: str
    photos: tuple[int, int]
    """learned from, scored"""
    questions: tuple[int, int]
    cpu_minutes: float
    """processor time of the training, all of its threads"""
    minutes: float
    before: dict[str, float]
    after: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the domains one after the other; the table is made of all that are done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder per domain")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--domains", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--steps", type=int, help="instead of those of the recipe")
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[], help="more flags for it")
    options = parser.parse_args(arguments)
    for name in options.domains:
        recipe, place = RECIPES[name], options.output / name
        if options.steps:
            recipe = Recipe(**{**asdict(recipe), "steps": options.steps})
        outcome = learn(name, options.data / name, place, recipe, options.train)
        (place / "outcome.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
        export_sheet(place)
        outcomes = sorted(options.output.glob("*/outcome.json"))
        print(*table(json.loads(path.read_text()) for path in outcomes), sep="\n", flush=True)


# ---- one domain ----


def learn(name: str, data: Path, place: Path, recipe: Recipe, more: Sequence[str]) -> Outcome:
    """Fine-tunes on a domain, and scores the model before and after."""
    counts = split(name, data, place)
    for side in ("learn", "score"):
        run(
            *("convert", "--from", "coco", "--input", f"{place}/{side}.json"),
            *("--images", f"{place}/photos", "--output", f"{place}/{side}"),
            *("--absent", f"{recipe.absent}", "--mask-of", recipe.mask_of),
        )
    asked = tuple(write_questions(place, side) for side in ("learn", "score"))
    before = score(place, "before", ())
    began, used = time.monotonic(), _cpu_seconds()
    run(
        *("train", "--data", f"{place}/learn", "--output", f"{place}/trained", "--full"),
        *("--held-out", "0", "--steps", f"{recipe.steps}", "--rate", f"{recipe.rate}"),
        *("--batch", f"{recipe.batch}", "--accumulate", "1", "--shape", "cosine"),
        *("--views", recipe.views, "--jitter", "0.3", "--evaluate-every", "0", *more),
    )
    minutes, cpu = (time.monotonic() - began) / 60, (_cpu_seconds() - used) / 60
    after = score(place, "after", ("--model", f"{place}/trained/model"))
    return Outcome(
        name, recipe.mask_of, counts, asked, round(cpu, 1), round(minutes, 1), before, after
    )


def score(place: Path, when: str, model: Sequence[str]) -> dict[str, float]:
    """Labels the photos that were not learned from, freely, and scores the labels."""
    labels, scores = f"{place}/{when}", place / f"{when}.json"
    run(
        *("label", "--input", f"{place}/score.jsonl", "--output", labels, *model),
        *("--max-replicas", "1", "--decoding.max-new-tokens", "300"),
    )
    run("evaluate", "--gold", f"{place}/score", "--labels", labels, "--output", f"{scores}")
    found: Mapping[str, Any] = json.loads(scores.read_text())
    return {name: found["groups"]["all"]["scores"][name] for name in METRICS}


def export_sheet(place: Path) -> None:
    """Draws some of the photos that were not learned from, with what the model says after it."""
    run(
        *("export", "--labels", f"{place}/after", "--output", f"{place}/sheet.png"),
        *("--to", "sheet", "--cards", f"{CARDS}"),
    )


def run(job: str, *flags: str) -> None:
    """One of the project's commands."""
    print("   ", "python", f"jobs/{job}.py", *flags, flush=True)
    subprocess.run([sys.executable, f"jobs/{job}.py", *flags], cwd=ROOT, check=True)


def write_questions(place: Path, side: str) -> int:
    """Puts the questions of a gold table into a JSONL that jobs/label.py takes; how many."""
    table = open_table(open_store(f"{place}/{side}"), f"{place}/{side}", None)
    rows = [(row.image_uri, row.instruction) for row in table.rows(("image_uri", "instruction"))]
    lines = [json.dumps({"image": image, "instruction": text}) for image, text in rows]
    (place / f"{side}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return len(lines)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# ---- photos ----


def split(name: str, data: Path, place: Path) -> tuple[int, int]:
    """Writes learn.json and score.json over a folder of photos; how many photos each has."""
    coco = json.loads((data / "instances.json").read_text())
    sides: dict[str, Json] = {
        side: {"images": [], "annotations": [], "categories": coco["categories"]}
        for side in ("learn", "score")
    }
    (place / "photos").mkdir(parents=True, exist_ok=True)
    scored, numbers = Split("held_out", HELD_OUT), count(1)
    for image, annotations in (read_crops if name.startswith("nuclei") else read_whole)(
        coco, data, place / "photos"
    ):
        digest = sha256((data / "images" / image.pop("source")).read_bytes()).hexdigest()
        side = sides["score" if scored.holds(digest) else "learn"]
        side["images"].append(image)
        side["annotations"] += [{**each, "id": next(numbers)} for each in annotations]
    for side, content in sides.items():
        (place / f"{side}.json").write_text(json.dumps(content))
    return len(sides["learn"]["images"]), len(sides["score"]["images"])


def read_whole(coco: Json, data: Path, photos: Path) -> Iterator[tuple[Json, list[Json]]]:
    """Whole photos; of those that say so, only where everything was labelled."""
    for image in coco["images"]:
        if image.get("labelled", "all") == "all":
            file = image["file_name"]
            (photos / file).write_bytes((data / "images" / file).read_bytes())
            own = [each for each in coco["annotations"] if each["image_id"] == image["id"]]
            yield {**image, "source": file}, own


def read_crops(coco: Json, data: Path, photos: Path) -> Iterator[tuple[Json, list[Json]]]:
    """Crops of microscope pictures, with few nuclei each."""
    number = 0
    for image in coco["images"]:
        with Image.open(data / "images" / image["file_name"]) as opened:
            picture = np.asarray(opened.convert("RGB"))
        own = [each for each in coco["annotations"] if each["image_id"] == image["id"]]
        masks = [coco_mask.decode(each["segmentation"]) for each in own]
        for top, left in _few(masks, picture.shape[:2]):
            number += 1
            window = slice(top, top + CROP), slice(left, left + CROP)
            file = f"{Path(image['file_name']).stem}_{top}_{left}.png"
            Image.fromarray(picture[window]).save(photos / file)
            inside = [mask[window] for mask in masks if mask[window].any()]
            cut = {"id": number, "file_name": file, "width": CROP, "height": CROP}
            yield {**cut, "source": image["file_name"]}, [_annotate(number, m) for m in inside]


def _few(masks: Sequence[Any], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Corners of crops that hold some nuclei and not many; those with most of them."""
    height, width = size
    found = []
    for top in range(0, height - CROP + 1, CROP // 2):
        for left in range(0, width - CROP + 1, CROP // 2):
            nuclei = sum(m[top : top + CROP, left : left + CROP].any() for m in masks)
            if 1 <= nuclei <= MOST_NUCLEI:
                found.append((-int(nuclei), top, left))
    return [(top, left) for _, top, left in sorted(found)[:CROPS]]


def _annotate(image: int, mask: Any) -> Json:
    code = coco_mask.encode(np.asfortranarray(mask))
    counts = code["counts"].decode("ascii")
    return {
        "image_id": image,
        "category_id": 1,
        "segmentation": {"size": list(code["size"]), "counts": counts},
        "area": int(mask.sum()),
        "bbox": coco_mask.toBbox(code).tolist(),
        "iscrowd": 0,
    }


if __name__ == "__main__":
    main()
