import json
import shutil
from pathlib import Path

import pytest
import torch

from pixellm.checkpoints import load_checkpoint
from pixellm.digests import adapter_sha256
from pixellm.engine.rows import Sample
from pixellm.errors import CheckpointError
from pixellm.images import prepare_image
from pixellm.learners import Tuning
from tests.photos import load_photos
from tests.test_model_folders import put_folder
from tests.test_tuning import learned
from workers.engines import load_engine, replays_steps
from workers.errors import SettingsError
from workers.hardware import settle_hardware
from workers.labels.calibration import Calibration
from workers.model_files import identify_model
from workers.settings import LabelSettings


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "tiny"))


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def make_settings(model: object, cache: Path, *flags: str) -> LabelSettings:
    places = ["--input", "/in", "--output", "/out", "--model", str(model)]
    given = [*places, "--model-cache", str(cache), "--num-gpus-per-replica", "0", *flags]
    return settle_hardware(LabelSettings.from_everywhere(given, "label"))


def fingerprint(model: object, cache: Path, *flags: str) -> str:
    return identify_model(make_settings(model, cache, *flags)).label_fingerprint


def test_the_identity_is_that_of_the_loaded_weights(folder, cache):
    settings = make_settings(folder, cache, "--decoding.max-new-tokens", "5")
    identity = identify_model(settings)
    assert identity.model_sha256 == load_checkpoint(folder).sha256
    assert (identity.model_id, identity.precision) == ("tiny", "fp32")
    decoding = {"max_new_tokens": 5, "official_groups": False, "forced_groups": True}
    decoding |= {"folded_projector": False}
    assert json.loads(identity.decode_json) == {**decoding, "calibration": None}
    engine = load_engine(settings, identity)
    image = prepare_image(load_photos()[0].rgb, engine.model.config.image_side)
    ((answer,),) = engine.answer([Sample(image, ("the dog",))])
    assert len(answer.token_ids) <= 5


def test_the_fingerprint_changes_with_all_that_changes_a_label(folder, cache):
    seen = {
        fingerprint(folder, cache),
        fingerprint(folder, cache, "--decoding.max-new-tokens", "7"),
        fingerprint(folder, cache, "--decoding.official-groups"),
        fingerprint(folder, cache, "--replica.precision", "bf16"),
    }
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    seen.add(fingerprint(folder, cache))
    assert len(seen) == 5


def put_calibration(path: Path, **values) -> Path:
    path.write_bytes(Calibration("score_iou", ((0.1, 0.2),), **values).to_json())
    return path


def test_a_calibration_is_part_of_the_identity_and_where_it_lies_is_not(folder, cache, tmp_path):
    digest = load_checkpoint(folder).sha256
    files = [put_calibration(tmp_path / name, model_sha256=digest) for name in ("a", "b")]
    files.append(put_calibration(tmp_path / "c"))
    seen = [fingerprint(folder, cache, "--calibration", str(each)) for each in files]
    assert seen[0] == seen[1] != seen[2] != fingerprint(folder, cache) != seen[0]
    identity = identify_model(make_settings(folder, cache, "--calibration", str(files[0])))
    assert identity.calibration.points == ((0.1, 0.2),)
    assert identity.provenance("run-1").calibration == identity.calibration
    assert json.loads(identity.decode_json)["calibration"] == identity.calibration.sha256


def test_a_calibration_of_another_model_is_refused_with_both_digests(folder, cache, tmp_path):
    file = put_calibration(tmp_path / "c.json", model_sha256="ab" * 32)
    digest = load_checkpoint(folder).sha256
    with pytest.raises(SettingsError) as caught:
        identify_model(make_settings(folder, cache, "--calibration", str(file)))
    said = f"{caught.value}"
    assert said.startswith(f"--calibration '{file}' was fitted for the model '{'ab' * 32}', and")
    assert f"--model '{folder}' is '{digest}'" in said
    assert "Give a calibration of this model, or none" in said


def test_a_calibration_of_the_model_alone_is_refused_with_an_adapter(
    folder, adapter, cache, tmp_path
):
    file = put_calibration(tmp_path / "c.json", model_sha256=load_checkpoint(folder).sha256)
    given = ("--calibration", str(file), "--adapter", f"{adapter}")
    with pytest.raises(SettingsError, match=f"with the adapter '{adapter_sha256(adapter)}', whose"):
        identify_model(make_settings(folder, cache, *given))


def test_a_wrong_calibration_is_told_before_a_model_is_fetched(cache, tmp_path):
    (tmp_path / "c.json").write_text("no JSON")
    flags = ("--calibration", f"{tmp_path}/c.json")
    with pytest.raises(SettingsError, match=r"^--calibration '.*/c.json' is no JSON"):
        identify_model(make_settings("s3://nowhere/model", cache, *flags))


@pytest.mark.parametrize("name", ["SCHEMA_VERSION", "PROMPT_VERSION", "ANSWERS_VERSION"])
def test_what_an_earlier_version_of_the_code_made_is_labelled_anew(
    name, folder, cache, monkeypatch
):
    now = fingerprint(folder, cache)
    monkeypatch.setattr(f"workers.model_files.{name}", "earlier")
    assert fingerprint(folder, cache) != now


def test_the_engine_is_what_the_settings_say(folder, cache, monkeypatch):
    recorded = []
    monkeypatch.setattr(
        "pixellm.engine.generation.recorder_for", lambda _: lambda work: recorded.append(1) or work
    )
    image = prepare_image(load_photos()[0].rgb, 56)
    for flags in ((), ("--replica.batch-questions", "8", "--replica.replay-steps", "yes")):
        settings = make_settings(folder, cache, "--replica.precision", "bf16", *flags)
        engine = load_engine(settings, identify_model(settings))
        assert engine.model.dtype == torch.bfloat16
        for _ in range(12):
            engine.add(Sample(image, ("the dog",)))
        under_way = [engine.in_step for _ in range(3) if engine.step() is not None]
        assert (max(under_way), bool(recorded)) == ((8, True) if flags else (12, False))


def test_steps_are_replayed_where_there_is_a_gpu_unless_the_settings_say_otherwise():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert [replays_steps("auto", each) for each in (cuda, cpu)] == [True, False]
    assert [replays_steps("no", cuda), replays_steps("yes", cpu)] == [False, True]


def test_the_fingerprint_does_not_depend_on_where_the_model_is_or_how_it_runs(folder, cache):
    elsewhere = shutil.copytree(folder, folder.with_name("other"))
    flags = ("--max-replicas", "3", "--replica.batch-questions", "2", "--instruction", "the dog")
    assert fingerprint(elsewhere, cache, *flags) == fingerprint(folder, cache)


def test_weights_that_are_not_those_of_the_driver_are_refused(folder, cache):
    settings = make_settings(folder, cache)
    identity = identify_model(settings)
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(SettingsError, match="not those of the driver"):
        load_engine(settings, identity)


def test_pickles_are_refused_before_any_worker_starts(folder, cache):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pixellm\.convert"):
        identify_model(make_settings(folder, cache))


def test_the_place_of_a_model_in_a_bucket_is_its_name_and_nothing_else(folder, cache):
    place = "mem://models/tiny-named"
    put_folder(folder, place)
    identity = identify_model(make_settings(place, cache))
    assert identity.model_id == place
    assert identity.label_fingerprint == fingerprint(folder, cache)


# ---- with an adapter ----


@pytest.fixture
def adapter(folder, tmp_path) -> Path:
    """What somebody has learned from the tiny model."""
    learned().save_adapter(tmp_path / "adapter")
    record = {"trained_from_sha256": load_checkpoint(folder).sha256}
    (tmp_path / "adapter" / "training.json").write_text(json.dumps(record))
    return tmp_path / "adapter"


def test_an_adapter_is_part_of_the_identity_and_where_it_lies_is_not(folder, adapter, cache):
    identity = identify_model(make_settings(folder, cache, "--adapter", f"{adapter}"))
    assert identity.adapter_sha256 == adapter_sha256(adapter)
    assert identity.provenance("run-1").adapter_sha256 == identity.adapter_sha256
    alone = identify_model(make_settings(folder, cache))
    assert alone.adapter_sha256 is None
    assert alone.model_sha256 == identity.model_sha256
    place = "mem://adapters/somewhere"
    put_folder(adapter, place)
    other = adapter.with_name("other")
    learned(Tuning(rank=4)).save_adapter(other)
    seen = [fingerprint(folder, cache, "--adapter", f"{each}") for each in (adapter, place, other)]
    assert seen[0] == seen[1] == identity.label_fingerprint
    assert len({*seen, alone.label_fingerprint}) == 3


def test_the_engine_answers_as_the_model_with_the_adapter_merged(folder, adapter, cache, tmp_path):
    tuned = learned()
    tuned.save_merged(load_checkpoint(folder).tokenizer, tmp_path / "merged")
    settings = make_settings(folder, cache, "--adapter", f"{adapter}")
    engine = load_engine(settings, identify_model(settings))
    merged = make_settings(tmp_path / "merged", cache)
    for key, value in load_engine(merged, identify_model(merged)).model.state_dict().items():
        assert torch.equal(engine.model.state_dict()[key], value), key


def test_an_adapter_of_another_model_is_refused_by_the_driver_with_both_digests(
    folder, adapter, cache
):
    digest = load_checkpoint(folder).sha256
    (adapter / "training.json").write_text(json.dumps({"trained_from_sha256": "ab" * 32}))
    with pytest.raises(SettingsError) as caught:
        identify_model(make_settings(folder, cache, "--adapter", f"{adapter}"))
    said = f"{caught.value}"
    assert said.startswith(f"--adapter '{adapter}' was trained from the model '{'ab' * 32}', and")
    assert f"--model '{folder}' is '{digest}': give the model" in said


def test_an_adapter_that_is_not_that_of_the_driver_is_refused(folder, adapter, cache):
    settings = make_settings(folder, cache, "--adapter", f"{adapter}")
    identity = identify_model(settings)
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(SettingsError, match=r"^--adapter '.*': .*not those of the driver"):
        load_engine(settings, identity)
