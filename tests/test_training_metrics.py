"""What a run measures: lines of JSON, and TensorBoard's curves where that is installed."""

import importlib.util
import json
import sys

import pytest

from pixellm.loop import StepReport
from workers.errors import SettingsError
from workers.storage.memory import MemoryStore
from workers.training.board import Board
from workers.training.evaluation import Evaluation, Graded
from workers.training.metrics import Metrics

OUTPUT = "mem://b/out"
HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def report(step):
    return StepReport(step, {"ce": 0.5, "dice": 0.25}, 0.75, 1e-3, 2.0)


def scored(step):
    graded = Graded(step, {"giou": 0.5, "loss": 1.0})
    return Evaluation(step, graded.scores, 40, 12.345, "giou", graded, {"image_missing": 2})


def files(store):
    return {
        info.uri.rpartition("/")[2]: [json.loads(line) for line in store.get(info.uri).splitlines()]
        for info in store.list(OUTPUT)
    }


def test_an_evaluation_is_a_line_behind_that_of_its_step():
    store, clock = MemoryStore(), Clock()
    metrics = Metrics(store, OUTPUT, 20, clock)
    for step in (1, 2):
        clock.now += 4
        metrics.note(report(step))
    metrics.write()
    clock.now += 100
    metrics.note_scores(scored(2))
    metrics.write()
    clock.now += 5
    assert metrics.note(report(3)).examples_per_s == 4.0  # the evaluation's time is not the step's
    metrics.write()
    found = files(store)
    assert list(found) == ["000000001.jsonl", "000000003.jsonl"]
    assert [each["step"] for each in found["000000001.jsonl"]] == [1, 2, 2]
    assert found["000000001.jsonl"][2] == {
        "step": 2,
        "scores": {"giou": 0.5, "loss": 1.0},
        "questions": 40,
        "left_out": {"image_missing": 2},
        "best_step": 2,
        "seconds": 12.35,
        "gpu_gb": None,
    }
    assert found["000000001.jsonl"][1]["examples_per_s"] == 5.0
    assert [each["step"] for each in found["000000003.jsonl"]] == [3]


def test_an_evaluation_by_itself_hides_no_file_of_steps():
    store = MemoryStore()
    metrics = Metrics(store, OUTPUT, 20)
    metrics.note(report(2))
    metrics.write()
    later = Metrics(store, OUTPUT, 20)
    later.note_scores(scored(2))
    later.write()
    assert list(files(store)) == ["000000002.jsonl", "000000003.jsonl"]


def test_a_board_without_its_package_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not there
    with pytest.raises(SettingsError, match=r"needs the package tensorboard.*pip install"):
        Board(tmp_path / "board")
    assert not (tmp_path / "board").exists()


@pytest.mark.skipif(not HAS_TENSORBOARD, reason="the extra `tensorboard` is not installed")
@pytest.mark.filterwarnings("ignore")  # of a package that is not ours
def test_a_board_has_the_curves_and_forgets_steps_that_are_made_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Metrics(MemoryStore(), OUTPUT, 20, board=Board(tmp_path))
    for step in (1, 2, 3):
        first.note(report(step))
    first.note_scores(scored(3))
    first.write()
    second = Metrics(MemoryStore(), OUTPUT, 20, board=Board(tmp_path))  # it was killed after 1
    second.note(report(2))
    second.write()
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = {"loss/ce", "loss/dice", "loss/total", "rate", "gradient", "examples_per_s"}
    assert tags | {"validation/giou", "validation/loss"} >= set(events.Tags()["scalars"])
    assert [each.step for each in events.Scalars("loss/total")] == [1, 2]
    assert events.Scalars("loss/ce")[0].value == 0.5
