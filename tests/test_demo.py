"""The README's one command, as somebody types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.demo import from_here, main
from workers.exports.coco_check import validate_coco
from workers.sheets.sheet import PHOTO_BOX
from workers.sheets.text import COLOURS

ROOT = Path(__file__).parent.parent
SECONDS = 240  # for Ray to start and two pictures, on a machine that is busy with other things


def test_paths_are_shown_as_short_as_they_can_be_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert from_here(tmp_path / "demo") == from_here(Path("demo")) == Path("demo")
    assert from_here(Path("/x")) == Path("/x")


@pytest.mark.slow
@pytest.mark.ray(last=True)
def test_the_demo_labels_what_it_draws_and_shows_the_masks(tmp_path):
    command = [sys.executable, "jobs/demo.py", "--output", str(tmp_path), "--pictures", "2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    beside = "2 images beside files that list records: labelled where those name them; "
    assert f"\nbeside     {beside}'{tmp_path}/bucket/scene-0000.jpg' is the first" in done.stdout
    sheet_path, coco_path = tmp_path / "labels" / "sheet.png", tmp_path / "labels" / "coco.json"
    last = done.stdout.splitlines()[-3:]
    places = (sheet_path, tmp_path / "labels" / "labels", coco_path)
    for line, place in zip(last, places, strict=True):
        assert f" at {place}: " in line
        assert place.exists()

    with Image.open(sheet_path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert PHOTO_BOX[1] < pixels.shape[0] < 20 * PHOTO_BOX[1]
    assert PHOTO_BOX[0] < pixels.shape[1] < 4 * PHOTO_BOX[0]
    assert (pixels == COLOURS[0]).all(axis=-1).any(), "no mask in the picture"

    assert validate_coco(coco_path) == []
    document = json.loads(coco_path.read_bytes())
    assert len(document["images"]) == 2
    assert {each["image_id"] for each in document["annotations"]} == {1, 2}
    assert all(each["area"] for each in document["annotations"])


@pytest.mark.parametrize("number", ["0", "-3", "two", "1.5", "²"])
def test_a_number_of_pictures_that_makes_no_demo_is_refused(number, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--output", str(tmp_path / "demo"), f"--pictures={number}"])
    assert ended.value.code == 2
    assert f"must be a whole number from 1, not '{number}'" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
