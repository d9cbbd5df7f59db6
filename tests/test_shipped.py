"""The small model that comes with the project makes true masks."""

from pathlib import Path

import pytest

import pixellm
from pixellm.answers import DecodeSettings
from pixellm.checkpoints import load_checkpoint
from pixellm.drawn.scenes import TEST_SEEDS
from pixellm.drawn.score import summary, verdicts
from pixellm.engine.engine import Engine

FOLDER = Path(pixellm.__file__).parent / "shipped" / "drawn"
MIB = 2**20


def test_it_fits_into_the_repository():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 30 * MIB


@pytest.mark.slow
def test_it_answers_held_out_scenes_as_its_readme_says():
    engine = Engine(load_checkpoint(FOLDER), DecodeSettings(max_new_tokens=80))
    scores = summary(verdicts(engine, TEST_SEEDS[500:540], questions=4))
    # 160 answers scatter by about 0.03 around the README's figures for 2,000
    assert scores["total"]["gIoU"] > 0.82
    assert scores["total"]["exact"] > 0.84
    assert scores["total"]["IoU of hits"] > 0.9
