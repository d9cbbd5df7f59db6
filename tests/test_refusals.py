"""What is refused leaves nothing in the output: not even the lists of the plan."""

import pytest

from jobs.label import main
from tests.photos import load_photos
from workers.labels.calibration import Calibration


@pytest.fixture
def places(tmp_path):
    photo, folder = load_photos()[0], tmp_path / "in"
    folder.mkdir()
    (folder / photo.name).write_bytes(photo.data)
    return ["--input", str(folder), "--output", str(tmp_path / "out"), "--num-gpus-per-replica=0"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "nothing is asked of the images under"),
        (("--instruction", "the dog", "--calibration", "c.json"), "/c.json' can't be read: "),
        (("--instruction", "the dog", "--model", "./no/model"), "there is no such folder"),
    ],
)
def test_a_run_that_is_refused_after_its_plan_leaves_nothing(places, tmp_path, capsys, flags, told):
    assert main([*places, *flags]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_calibration_of_another_model_is_told_and_leaves_nothing(places, tmp_path, capsys):
    file = tmp_path / "c.json"
    file.write_bytes(Calibration("score_mask", ((0.1, 0.2),), "ab" * 32).to_json())
    assert main([*places, "--instruction", "the dog", "--calibration", str(file)]) == 2
    told = capsys.readouterr().err
    assert f"--calibration '{file}' was fitted for the model '{'ab' * 32}'" in told
    assert "or none: then `score` is the same as `score_mask`" in told
    assert not (tmp_path / "out").exists()


def test_a_dry_run_leaves_nothing_and_tells_the_plan(places, tmp_path, capsys):
    assert main([*places, "--instruction", "the dog", "--dry-run"]) == 0
    assert "1 shard, 1 to do" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_found_out_before_anything_is_written(
    places, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert main([*places, "--instruction", "the dog"]) == 2
    assert "ray job submit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_told_before_ray_is_started(
    places, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("workers.pool.label_on_ray", lambda *_: pytest.fail("Ray was started"))
    (tmp_path / "out").write_text("a file where a folder should be")
    assert main([*places, "--instruction", "the dog"]) == 2
    told = capsys.readouterr().err
    assert "the output can't be written" in told
    assert "is a file, not a folder" in told
    assert "0/1 shards" not in told
