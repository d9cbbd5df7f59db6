"""training.json: where what was learned comes from."""

import json

import pytest

from workers.errors import SettingsError
from workers.training.plan import DataSet, TrainPlan
from workers.training.record import (
    MOST_ANCESTORS,
    MOST_CHARS,
    Ancestor,
    TrainingRecord,
    read_trained_from,
    trace_lineage,
)

SECRET = "s3://b/gold?X-Amz-Signature=abc123"


BASE, GOLD = Ancestor("/base", "ab"), DataSet("/gold")


def record_of(lineage=(BASE,), data=(GOLD,), **more):
    values = {
        "plan": TrainPlan(model=lineage[0].model, data=data, output="/out"),
        "lineage": tuple(lineage),
        "steps": 7,
        "examples": 140,
        "passed_over": {"other_side": 3},
        "runs": (("run-1",),) * len(data),
        "losses": {"ce": 0.5, "bce": 0.25},
        "loss_steps": 7,
        "graded": None,
        "finished_at": "2026-11-25T12:00:00.000000+00:00",
        "code_version": "0.1.0",
    }
    return TrainingRecord(**values | more)


def put(folder, values):
    folder.mkdir(exist_ok=True)
    text = values if isinstance(values, str) else json.dumps(values)
    (folder / "training.json").write_text(text)
    return folder


def test_a_model_that_was_tuned_twice_names_both_that_it_descends_from(tmp_path):
    assert trace_lineage("/base", "ab", tmp_path) == (Ancestor("/base", "ab"),)
    once = put(tmp_path / "once", record_of().to_json())
    lineage = trace_lineage("/once", "cd", once)
    own = Ancestor("/once", "cd", ("/gold",), "2026-11-25T12:00:00.000000+00:00")
    assert lineage == (own, Ancestor("/base", "ab"))
    twice = put(tmp_path / "twice", record_of(lineage).to_json())
    assert trace_lineage("/twice", "ef", twice)[1:] == lineage


def test_a_record_without_a_lineage_names_at_least_its_base(tmp_path):
    folder = put(tmp_path, {"trained_from": "/base", "trained_from_sha256": "ab", "plan": {}})
    assert trace_lineage("/once", "cd", folder)[1:] == (Ancestor("/base", "ab"),)


@pytest.mark.parametrize(
    "values",
    [
        "no JSON",
        "[]",
        {"plan": 3, "lineage": 3},
        {"plan": {"data": [3, {}]}, "lineage": [3, {}, {"model": 3}]},
    ],
)
def test_a_record_that_nobody_can_read_ends_no_training(tmp_path, values):
    (own,) = trace_lineage("/once", "cd", put(tmp_path, values))
    assert (own.model, own.sha256, own.finished_at) == ("/once", "cd", "")


def test_what_others_wrote_can_not_make_a_record_endless(tmp_path):
    told = {"lineage": [{"model": "m" * 5_000}] * 100, "finished_at": "2" * 5_000}
    lineage = trace_lineage("/once", "cd", put(tmp_path, told))
    assert len(lineage) == MOST_ANCESTORS
    assert len(lineage[0].finished_at) == len(lineage[-1].model) == MOST_CHARS


def test_the_base_stands_on_the_top_and_secrets_nowhere():
    text = record_of((Ancestor(SECRET, "ab"),), data=(DataSet(SECRET),)).to_json()
    values = json.loads(text)
    assert values["trained_from_sha256"] == "ab"
    assert values["trained_from"] == "s3://b/gold?X-Amz-Signature=..."
    assert values["plan"]["data"] == [{"prefix": values["trained_from"], "weight": 1.0}]
    assert "abc123" not in text


def test_an_adapter_tells_the_model_that_it_was_trained_from(tmp_path):
    assert read_trained_from(tmp_path) is None
    assert read_trained_from(put(tmp_path, record_of().to_json())) == "ab"
    for wrong, told in (
        ("{", r"training\.json' can't be read as JSON.*copied whole"),
        ({}, "does not tell trained_from_sha256"),
        ({"trained_from_sha256": 3}, "does not tell trained_from_sha256"),
    ):
        with pytest.raises(SettingsError, match=told):
            read_trained_from(put(tmp_path, wrong))
