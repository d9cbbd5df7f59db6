import io
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pixellm.checkpoints import load_checkpoint, save_checkpoint
from pixellm.engine.rows import Sample
from pixellm.errors import CheckpointError
from pixellm.images import prepare_image
from pixellm.tiny import tiny_checkpoint
from tests.photos import load_photos
from workers.errors import SettingsError, StorageError
from workers.hardware import settle_hardware
from workers.labels.calibration import Calibration
from workers.model_files import (
    fetch_model,
    identify_model,
    load_engine,
)
from workers.settings import LabelSettings
from workers.storage.memory import MemoryStore
from workers.storage.stores import open_store


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """The folder of a tiny model; not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint = tiny_checkpoint(0)
    save_checkpoint(checkpoint.model, checkpoint.tokenizer, folder)
    return folder


@pytest.fixture
def folder(shelf, tmp_path) -> Path:
    return Path(shutil.copytree(shelf, tmp_path / "tiny"))


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def make_settings(model: object, cache: Path, *flags: str) -> LabelSettings:
    places = ["--input", "/in", "--output", "/out", "--model", str(model)]
    given = [*places, "--model-cache", str(cache), "--num-gpus-per-replica", "0", *flags]
    return settle_hardware(LabelSettings.from_everywhere(given, "label"))


def fingerprint(model: object, cache: Path, *flags: str) -> str:
    return identify_model(make_settings(model, cache, *flags)).label_fingerprint


def put_model(folder: Path, place: str) -> None:
    for path in folder.iterdir():
        open_store(place).put(f"{place}/{path.name}", path.read_bytes())


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


def fetch(settings) -> Path:
    return fetch_model(settings.model_place, settings.model_cache)


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


def test_an_adapter_is_part_of_the_identity(folder, cache):
    plain = identify_model(make_settings(folder, cache))
    adapted = replace(plain, adapter_sha256="ab" * 32)
    assert adapted.label_fingerprint != plain.label_fingerprint
    assert adapted.provenance("run-1").adapter_sha256 == "ab" * 32


def test_the_engine_is_what_the_settings_say(folder, cache, monkeypatch):
    recorded = []
    monkeypatch.setattr(
        "pixellm.engine.generation.recorder_for", lambda _: lambda work: recorded.append(1) or work
    )
    image = prepare_image(load_photos()[0].rgb, 56)
    for flags in ((), ("--replica.batch-questions", "8", "--replica.replay-steps")):
        settings = make_settings(folder, cache, "--replica.precision", "bf16", *flags)
        engine = load_engine(settings, identify_model(settings))
        assert engine.model.dtype == torch.bfloat16
        engine.answer([Sample(image, ("the dog",))] * 12)
        assert (engine.at_once <= 8, bool(recorded)) == (bool(flags), bool(flags))


def test_the_fingerprint_does_not_depend_on_where_the_model_is_or_how_it_runs(folder, cache):
    elsewhere = shutil.copytree(folder, folder.with_name("other"))
    flags = ("--max-replicas", "3", "--replica.batch-questions", "2", "--instruction", "the dog")
    assert fingerprint(elsewhere, cache, *flags) == fingerprint(folder, cache)


def test_the_digest_is_remembered_until_a_file_changes(folder, cache):
    first = fingerprint(folder, cache)
    weights = folder / "model.safetensors"
    before = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fingerprint(folder, cache) == first  # same size, same time: it wasn't read
    os.utime(weights, ns=(1, 1))
    assert fingerprint(folder, cache) != first


def test_the_digest_of_one_folder_is_not_that_of_another_of_its_name(folder, cache, tmp_path):
    first = fingerprint(folder, cache)
    other = Path(shutil.copytree(folder, tmp_path / "else" / folder.name))  # with the same times
    weights = other / "model.safetensors"
    before, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fingerprint(other, cache) != first


def test_a_home_that_can_not_be_written_does_no_harm(folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert fingerprint(folder, tmp_path / "file" / "cache")


def test_a_broken_note_is_not_believed(folder, cache):
    first = fingerprint(folder, cache)
    for text in ("{}", "[]", "no JSON", "null"):
        for note in (cache / "sha256").iterdir():
            note.write_text(text)
        assert fingerprint(folder, cache) == first


def test_weights_that_are_not_those_of_the_driver_are_refused(folder, cache):
    settings = make_settings(folder, cache)
    identity = identify_model(settings)
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(SettingsError, match="not those of the driver"):
        load_engine(settings, identity)


def test_a_hub_id_is_told_that_hubs_are_never_asked(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"--model 'org/name': .*hubs are never asked"):
        fetch(make_settings("org/name", cache))
    with pytest.raises(SettingsError, match=r"/nowhere/x': there is no such folder\.$"):
        fetch(make_settings("/nowhere/x", cache))


def test_pickles_are_refused_before_any_worker_starts(folder, cache):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pixellm\.convert"):
        identify_model(make_settings(folder, cache))


def test_a_model_in_a_bucket_is_fetched_once_and_is_the_same(folder, cache):
    place = "mem://models/tiny-1"
    put_model(folder, place)
    for other in ("optimizer.pt", "checkpoint-5/other.safetensors"):
        open_store(place).put(f"{place}/{other}", b"never fetched")
    settings = make_settings(place, cache)
    first = fetch(settings)
    assert {path.name for path in first.iterdir()} == {path.name for path in folder.iterdir()}
    (first / "mark").touch()
    assert (fetch(settings) / "mark").exists()
    assert identify_model(settings).label_fingerprint == fingerprint(folder, cache)
    assert identify_model(settings).model_id == place


def test_what_a_killed_process_had_fetched_is_removed(folder, cache):
    place = "mem://models/tiny-killed"
    put_model(folder, place)
    whole = fetch(make_settings(place, cache))
    half, other = (whole.with_name(f".{name}-0123") for name in (whole.name, "other"))
    for left in (half, other):
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"half")
    fetch(make_settings(place, cache))
    assert (half.exists(), other.exists(), whole.exists()) == (False, True, True)


def test_a_changed_model_in_a_bucket_is_fetched_anew(folder, cache):
    place = "mem://models/tiny-2"
    put_model(folder, place)
    first = fetch(make_settings(place, cache))
    open_store(place).put(f"{place}/config.json", b"{}")
    second = fetch(make_settings(place, cache))
    assert second != first
    assert (second / "config.json").read_bytes() == b"{}"
    open_store(place).put(f"{place}/config.json", b"[]")  # as long as before
    assert fetch(make_settings(place, cache)) != second


def test_a_file_that_changes_while_it_is_fetched_leaves_nothing_behind(folder, cache, monkeypatch):
    class Changing(MemoryStore):
        def stat(self, uri):
            return replace(super().stat(uri), size=3)

    store, place = Changing(), "mem://models/tiny-3"
    for path in folder.iterdir():
        store.put(f"{place}/{path.name}", path.read_bytes())
    monkeypatch.setattr("workers.model_files.open_store", lambda _: store)
    monkeypatch.setattr(store, "open", lambda uri: io.BytesIO(store.get(uri)))
    with pytest.raises(StorageError, match="changed while it was fetched"):
        fetch(make_settings(place, cache))
    assert [path.suffix for path in (cache / "models").iterdir()] == [".lock"]


def test_a_bucket_without_weights_is_refused(cache):
    open_store("mem://models").put("mem://models/none/config.json", b"{}")
    with pytest.raises(SettingsError, match=r"'mem://models/none': there is no \*\.safetensors"):
        fetch(make_settings("mem://models/none", cache))


def test_replicas_that_start_at_once_share_one_fetch(folder, cache, bucket):
    place = f"s3://{bucket}/models/tiny"
    put_model(folder, place)
    settings = make_settings(place, cache)
    with ThreadPoolExecutor(4) as pool:  # the lock keeps threads apart as it does processes
        found = set(pool.map(fetch, [settings] * 4))
    (fetched,) = found
    kept = {path.name for path in (cache / "models").iterdir()}
    assert kept == {fetched.name, f"{fetched.name}.lock"}
    for path in folder.iterdir():
        assert (fetched / path.name).read_bytes() == path.read_bytes()
