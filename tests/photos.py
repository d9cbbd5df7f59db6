"""The eight real photos of tests/data/photos with the masks that people drew on them."""

import contextlib
import io
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

FOLDER = Path(__file__).parent / "data" / "photos"


@dataclass(frozen=True)
class Photo:
    name: str
    data: bytes
    rgb: np.ndarray
    masks: tuple[np.ndarray, ...]
    """(h, w) bool each; crowds are left out"""
    phrases: tuple[str, ...]


@cache
def load_photos() -> tuple[Photo, ...]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools, under new numpys
        coco = COCO(str(FOLDER / "instances.json"))
        return tuple(_photo(coco, number, entry) for number, entry in sorted(coco.imgs.items()))


def _photo(coco: COCO, number: int, entry: dict) -> Photo:
    data = (FOLDER / entry["file_name"]).read_bytes()
    annotations = coco.loadAnns(coco.getAnnIds(number, iscrowd=False))
    return Photo(
        entry["file_name"],
        data,
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
        tuple(coco.annToMask(each).astype(bool) for each in annotations),
        tuple(coco.cats[each["category_id"]]["name"] for each in annotations),
    )
