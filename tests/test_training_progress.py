import json

import pytest

from workers.errors import SettingsError
from workers.training.evaluation import Graded
from workers.training.feed import FeedPosition
from workers.training.mixing import MixPosition
from workers.training.progress import Progress
from workers.training.reading import Position

PROGRESS = Progress(
    plan="ab",
    model="cd",
    loop={"step": 7, "recent": [0.5]},
    data=FeedPosition("ef", 4, 8, MixPosition(28, (Position(1, 3),)), (("run-1",),), 2, 1),
    passed_over={"no label": 2},
    evaluations=(Graded(5, {"giou": 0.25}),),
    validation={"mem://b/gold": ("run-1", "run-2")},
)


def test_what_a_state_says_is_read_as_it_was_written():
    assert Progress.from_json(json.loads(json.dumps(PROGRESS.to_json()))) == PROGRESS
    assert PROGRESS.step == 7


@pytest.mark.parametrize("name", ["plan", "model", "loop", "data", "passed_over"])
def test_a_state_that_lacks_something_is_not_gone_on_with(name):
    rest = PROGRESS.to_json()
    del rest[name]
    with pytest.raises(SettingsError, match=f"'{name}'.*give another --output"):
        Progress.from_json(rest)
