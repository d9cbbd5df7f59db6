"""Labels that people made, in the forms of other tools: of the real photos, and of drawn scenes.

`convert` and `export` are the commands that a user types; what they leave is read as any table is.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from jobs.convert import main as convert_main
from jobs.export import main as export_main
from pixellm.drawn.phrasing import full_name
from pixellm.drawn.scenes import DEMO_SEEDS, draw_scene, render
from tests.photos import FOLDER
from workers.labels.origins import Origin
from workers.labels.parts import open_table
from workers.labels.rle import decode_mask
from workers.labels.schema import LabelRow
from workers.storage.stores import open_store

COCO = json.loads((FOLDER / "instances.json").read_text())
CATEGORIES = {each["id"]: each["name"] for each in COCO["categories"]}
PHOTOS = sorted(COCO["images"], key=lambda image: image["id"])


@dataclass(frozen=True)
class DrawnScene:
    name: str
    size: tuple[int, int]
    masks: tuple[np.ndarray, ...]
    names: tuple[str, ...]


def draw(folder: Path, count=2, size=(96, 120)) -> list[DrawnScene]:
    """Drawn scenes as PNG files in a folder, with their masks and the names of their things."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = []
    for number in range(count):
        scene = draw_scene(DEMO_SEEDS[number])
        drawing = render(scene, *size)
        name = f"scene-{number}.png"
        Image.fromarray(drawing.rgb).save(folder / name)
        names = tuple(full_name(thing) for thing in scene.things)
        scenes.append(DrawnScene(name, size, tuple(drawing.masks), names))
    return scenes


def instances(image, crowd=False):
    """COCO's annotations of one of the photos."""
    of_image = (each for each in COCO["annotations"] if each["image_id"] == image["id"])
    return [each for each in of_image if bool(each["iscrowd"]) == crowd]


def code(mask, plain=True):
    """A mask as run lengths, made by pycocotools."""
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    if not plain:
        return {"size": packed["size"], "counts": packed["counts"].decode()}
    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [2]])
    counts = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def pixels(segmentation, height, width):
    """The mask of a segmentation as the official loaders make it, with overlaps flattened."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools, under new numpys
        decoded = coco_mask.decode(coco_mask.frPyObjects(segmentation, height, width))
    return (decoded.sum(axis=2) if decoded.ndim > 2 else decoded) > 0


def write(path: Path, document) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def convert(form, source, output, *flags, images=FOLDER, code=0) -> list[LabelRow]:
    """Runs the import; its rows in the order of the source."""
    given = ["--from", form, "--input", str(source), "--output", str(output)]
    given += ["--images", str(images)] if images else []
    assert convert_main([*given, *flags]) == code
    return read(output) if code == 0 else []


def export(form, labels, path, *flags) -> Path:
    given = ["--labels", str(labels), "--to", form, "--output", str(path)]
    assert export_main([*given, *flags]) == 0
    return path


def read(output) -> list[LabelRow]:
    rows = open_table(open_store(str(output)), str(output), None).rows()
    return sorted(rows, key=lambda row: (row.shard_id, row.row_index, place(row)))


def place(row) -> int:
    return Origin.from_json(row.meta_json).place


def masks(row) -> list[np.ndarray]:
    return [decode_mask(target.rle_size, target.rle_counts) for target in row.targets]


def what_counts(row):
    """All that a form has to give back."""
    targets = [
        (each.rle_size, each.rle_counts, each.phrase, each.category, each.category_id, each.flags)
        for each in row.targets
    ]
    asked = (row.image_sha256, row.instruction, row.instruction_kind, row.requested_classes)
    return asked, row.status, row.answer_text, targets


def assert_same_labels(rows, again) -> None:
    """Question by question the same, in the same order, but for those that were rejected."""
    kept = [row for row in rows if row.status != "rejected_input"]
    assert len(kept) == len(again)
    for row, other in zip(kept, again, strict=True):
        assert what_counts(row) == what_counts(other)


def problems(rows) -> list[tuple[str, str]]:
    return [(row.instruction, row.error_code) for row in rows if row.error_code]
