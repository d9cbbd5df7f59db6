"""The command that one types, on tables in a folder."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.evaluate import main
from tests.labels import ATTEMPT, MADE_BY
from tests.scoring import box, put_table, row
from tests.test_scoring_scores import EXPECTED, GOLD, SAID
from workers.labels.calibration import Calibration, read_calibration
from workers.scoring import join
from workers.scoring.metrics import METRICS
from workers.scoring.settings import EvaluateSettings
from workers.storage.local import LocalStore
from workers.storage.s3 import S3Store

HUMAN = replace(MADE_BY, run_id="human-1", origin="human", model_id="", model_sha256="")


@pytest.fixture
def tables(tmp_path):
    put_table(LocalStore(), str(tmp_path / "gold"), GOLD[:2], GOLD[2:], made_by=HUMAN)
    put_table(LocalStore(), str(tmp_path / "labels"), SAID)
    return ["--gold", str(tmp_path / "gold"), "--labels", str(tmp_path / "labels")]


def test_it_prints_the_page_and_writes_it_beside_the_json(tables, tmp_path, capsys):
    output = tmp_path / "scores" / "today.json"
    assert main([*tables, "--output", str(output)]) == 0
    document = json.loads(output.read_text())
    for name in METRICS:
        assert document["groups"]["all"]["scores"][name] == pytest.approx(EXPECTED[name], abs=1e-5)
    told = capsys.readouterr()
    assert (tmp_path / "scores" / "today.md").read_text() == told.out
    assert told.out.startswith("# '/")
    assert f"evaluate: wrote '{output}'" in told.err
    assert sorted(each.name for each in output.parent.iterdir()) == ["today.json", "today.md"]


def test_minimums_decide_the_exit_code(tables, capsys):
    assert main([*tables, "--min", "giou=0.4", "--min", "f1=0.6"]) == 0
    assert "All that was asked for is reached: giou=0.4, f1=0.6" in capsys.readouterr().out
    assert main([*tables, "--min", "giou=0.4", "--min", "f1=0.62", "--min", "ap=0.9"]) == 3
    told = capsys.readouterr()
    for sentence in ("f1 is 0.6154, and must be 0.62 or more", "ap is 0.3956, and must be 0.9 or"):
        assert f"evaluate: {sentence}" in told.err
        assert f"* {sentence}" in told.out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--min", "iou=0.5"], "--min: 'iou' is no metric; there are giou, ciou, "),
        (["--min", "giou=50"], "'giou=50' is no minimum such as giou=0.5"),
        (["--muse", "both"], "--muse: "),
        (["--judge-url", "http://h/v1"], "--judge-url and --judge-model belong together"),
        (["--judge-model", "gpt"], "--judge-url and --judge-model belong together"),
        (["--judge-url", "file:///etc/passwd", "--judge-model", "m"], "is no address such as http"),
        (["--judge-url", "http://k:s3cr3t@h/v1", "--judge-model", "m"], "keys come from the var"),
        (["--judge-url", "http://h:port/v1", "--judge-model", "m"], "is no address: "),
        (["--calibrate-of", "score_iou"], "--calibrate-of means nothing without --calibrate"),
        (["--calibrate", "c.json", "--calibrate-of", "score"], "--calibrate-of: "),
        (["--threshold", "1"], "unknown flag --threshold"),
        (["--gold", "ftp://x/y"], "--gold: 'ftp://x/y' is no place for files"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_read(flags, told, capsys):
    given = ["--labels", "/nowhere", "--gold", "/nowhere"]
    assert main([*given, *flags]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "s3cr3t" not in said


def test_a_table_that_is_not_there_is_told(tables, tmp_path, capsys):
    assert main(["--labels", f"{tmp_path}/none", "--gold", f"{tmp_path}/gold"]) == 1
    assert "evaluate: nothing has been committed under " in capsys.readouterr().err


def test_a_run_can_be_named(tables, capsys):
    assert main([*tables, "--run", "run-1", "--gold-run", "human-1"]) == 0
    assert main([*tables, "--run", "run-2"]) == 1
    assert "nothing has been committed by the run 'run-2'" in capsys.readouterr().err


# ---- calibration


def test_a_calibration_is_fitted_that_the_label_job_takes(tmp_path, capsys):
    # Predictions with a score of 0.2 are right once in four times, those with 0.8 always.
    square, wrong = box(0, 0, 4, 4), box(6, 6, 9, 9)
    gold = [row([square], text=f"{n}") for n in range(6)]
    said = [
        row([square if n > 2 else wrong], scores=[0.2 if n < 4 else 0.75], text=f"{n}")
        for n in range(6)
    ]
    put_table(LocalStore(), str(tmp_path / "gold"), gold, made_by=HUMAN)
    put_table(LocalStore(), str(tmp_path / "labels"), said)
    curve = tmp_path / "curve.json"
    given = ["--gold", str(tmp_path / "gold"), "--labels", str(tmp_path / "labels")]
    assert main([*given, "--calibrate", str(curve), "--calibrate-of", "score_mask"]) == 0
    made = read_calibration(str(curve))
    assert made.of == "score_mask"
    assert made.apply(0.2) == pytest.approx(1 / 4)
    assert made.apply(0.75) == 1
    assert made.model_sha256 == MADE_BY.model_sha256
    assert made.notes == {
        "gold": f"'{tmp_path}/gold'",
        "labels": f"'{tmp_path}/labels'",
        "targets": "6",
        "right": "3",
    }
    assert main([*given, "--calibrate", str(curve)]) == 0
    assert read_calibration(str(curve)).of == "score_phrase"
    told = capsys.readouterr().err
    assert "evaluate: wrote" in told
    assert "same score" not in told


@pytest.mark.parametrize(("found", "share"), [((0, 0, 2, 2), "none"), ((4, 4, 8, 8), "each")])
def test_a_calibration_that_tells_nothing_apart_says_so(found, share, tmp_path, capsys):
    square = box(4, 4, 8, 8)
    put_table(LocalStore(), str(tmp_path / "gold"), [row([square])], made_by=HUMAN)
    put_table(LocalStore(), str(tmp_path / "labels"), [row([box(*found)], scores=[0.4])])
    given = ["--gold", str(tmp_path / "gold"), "--labels", str(tmp_path / "labels")]
    curve = str(tmp_path / "curve.json")
    assert main([*given, "--calibrate", curve, "--calibrate-of", "score_mask"]) == 0
    assert (
        f"{share} of the predictions found a target: this calibration gives every target the same"
        in capsys.readouterr().err
    )


WITH_ADAPTER = replace(MADE_BY, adapter_sha256="cd" * 32)


@pytest.mark.parametrize(
    ("makers", "named"),
    [
        ((MADE_BY, replace(MADE_BY, model_sha256="cd" * 32)), (None, None)),
        ((MADE_BY, WITH_ADAPTER), (None, None)),
        ((WITH_ADAPTER, WITH_ADAPTER), (MADE_BY.model_sha256, "cd" * 32)),
    ],
)
def test_a_calibration_is_for_a_model_if_all_predictions_come_from_one(makers, named, tmp_path):
    square = [box(0, 0, 4, 4)]
    gold = [row(square, text=f"{number}") for number in (1, 2)]
    attempts = [replace(ATTEMPT, provenance=each) for each in makers]
    said = [row(square, text=f"{at}", attempt=each) for at, each in enumerate(attempts, start=1)]
    put_table(LocalStore(), str(tmp_path / "gold"), gold)
    put_table(LocalStore(), str(tmp_path / "labels"), said)
    given = ["--gold", str(tmp_path / "gold"), "--labels", str(tmp_path / "labels")]
    curve = tmp_path / "curve.json"
    assert main([*given, "--calibrate", str(curve)]) == 0
    made = Calibration.from_json(curve.read_bytes(), "it")
    assert (made.model_sha256, made.adapter_sha256) == named


def test_there_is_no_calibration_of_a_score_that_no_prediction_has(tables, tmp_path, capsys):
    curve = str(tmp_path / "curve.json")
    assert main([*tables, "--calibrate", curve, "--calibrate-of", "score_iou"]) == 2
    assert "no target has a score_iou: there is nothing to fit" in capsys.readouterr().err
    assert not Path(curve).exists()


# ---- on Ray


def test_a_cluster_needs_a_folder_that_all_machines_reach(tables, monkeypatch, capsys):
    monkeypatch.setattr(join, "BLOCK_ROWS", 2)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert main(tables) == 2
    told = capsys.readouterr().err
    assert "--scratch is missing: on the cluster at RAY_ADDRESS=head:6379, a folder" in told


@pytest.mark.slow
@pytest.mark.ray(last=True)
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own settings
def test_on_ray_the_scores_are_the_same(tables, tmp_path, monkeypatch, capsys):
    assert main([*tables, "--output", str(tmp_path / "here.json")]) == 0
    monkeypatch.setattr(join, "BLOCK_ROWS", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main([*tables, "--output", str(tmp_path / "ray.json")]) == 0
    assert "starting Ray on this machine" in capsys.readouterr().err
    here, ray = (json.loads((tmp_path / f"{each}.json").read_text()) for each in ("here", "ray"))
    assert here["told"] == ray["told"]
    for group, each in here["groups"].items():
        assert each["scores"] == pytest.approx(ray["groups"][group]["scores"])


# ---- in a bucket


def test_all_may_lie_in_a_bucket(bucket, s3_server):
    place, store = f"s3://{bucket}", S3Store()
    put_table(store, f"{place}/gold", GOLD[:2], GOLD[2:], made_by=HUMAN)
    put_table(store, f"{place}/labels", SAID)
    given = [f"--{name}={place}/{name}" for name in ("gold", "labels", "scratch")]
    assert main([*given, f"--output={place}/scores/now.json"]) == 0
    document = json.loads(store.get(f"{place}/scores/now.json"))
    assert document["groups"]["all"]["scores"]["giou"] == pytest.approx(EXPECTED["giou"])
    assert store.get(f"{place}/scores/now.md").startswith(b"# 's3://")
    assert list(store.list(f"{place}/scratch")) == []


def test_the_settings_name_every_raw_score_of_the_table():
    given = ["--labels", "/a", "--gold", "/b", "--calibrate", "/c"]
    for name in ("score_mask", "score_iou", "score_token", "score_phrase"):
        settings = EvaluateSettings.from_flags([*given, "--calibrate-of", name], "evaluate")
        assert settings.options.raw_score == name
    assert EvaluateSettings.from_flags(given, "evaluate").options.raw_score == "score_phrase"
    assert EvaluateSettings.from_flags(given[:4], "evaluate").options.raw_score is None
