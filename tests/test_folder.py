import json

import numpy as np
from PIL import Image

from pixellm.drawn.folder import write_drawn_folder
from pixellm.drawn.scenes import DEMO_SEEDS, draw_scene, render


def test_a_drawn_folder_holds_pictures_and_what_is_asked_about_them(tmp_path):
    records = write_drawn_folder(tmp_path / "new", count=8, seed=0, size=96)
    lines = [json.loads(line) for line in records.read_text("utf-8").splitlines()]
    assert [sorted(line) for line in lines] == [["image", "instructions"]] * 8
    for line in lines:
        with Image.open(records.parent / line["image"]) as picture:
            assert picture.size == (96, 96)
            assert picture.format == ("PNG" if line["image"].endswith("png") else "JPEG")
        assert 1 <= len(line["instructions"]) <= 3
        assert all(isinstance(text, str) and text for text in line["instructions"])
    assert {line["image"].rsplit(".", 1)[1] for line in lines} == {"png", "jpg"}


def test_the_pictures_are_held_out_scenes(tmp_path):
    write_drawn_folder(tmp_path, count=4, seed=0, size=128)
    drawn = render(draw_scene(DEMO_SEEDS[3]), 128, 128).rgb
    assert np.array_equal(np.asarray(Image.open(tmp_path / "scene-0003.png")), drawn)


def test_the_same_seed_writes_the_same_folder(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_drawn_folder(tmp_path / name, count=3, seed=seed, size=64)
    a, b, c = ((tmp_path / n / "scene-0000.jpg").read_bytes() for n in "abc")
    assert a == b != c
