"""Folders of models and adapters: fetched whole, once, and known by their digests."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pixellm.checkpoints import load_checkpoint, save_checkpoint
from pixellm.errors import CheckpointError
from pixellm.tiny import tiny_checkpoint
from tests.test_tuning import learned
from workers.errors import SettingsError
from workers.model_folders import digest_adapter, fetch_adapter, fetch_model, model_sha256
from workers.storage.stores import open_store


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """The folders of a tiny model and of an adapter; not to be changed."""
    place = tmp_path_factory.mktemp("models")
    checkpoint = tiny_checkpoint(0)
    save_checkpoint(checkpoint.model, checkpoint.tokenizer, place / "tiny")
    learned().save_adapter(place / "adapter")
    (place / "adapter" / "training.json").write_text('{"trained_from_sha256": "ab"}')
    return place


@pytest.fixture
def folder(shelf, tmp_path) -> Path:
    return Path(shutil.copytree(shelf / "tiny", tmp_path / "tiny"))


@pytest.fixture
def adapter(shelf, tmp_path) -> Path:
    return Path(shutil.copytree(shelf / "adapter", tmp_path / "adapter"))


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def put_folder(folder: Path, place: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            open_store(place).put(f"{place}/{path.relative_to(folder)}", path.read_bytes())


def names(folder: Path) -> set[str]:
    return {f"{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}


# ---- digests ----


def test_the_digest_is_that_of_the_loaded_weights(folder, cache):
    assert model_sha256(folder, cache) == load_checkpoint(folder).sha256


@pytest.mark.parametrize("digest", [model_sha256, digest_adapter])
def test_the_digest_is_remembered_until_a_file_changes(folder, adapter, cache, digest):
    place = folder if digest is model_sha256 else adapter
    first = digest(place, cache)
    weights = next(place.rglob("model.safetensors"))
    before = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest(place, cache) == first  # same size, same time: it wasn't read
    os.utime(weights, ns=(1, 1))
    assert digest(place, cache) != first


def test_the_digest_of_one_folder_is_not_that_of_another_of_its_name(folder, cache, tmp_path):
    first = model_sha256(folder, cache)
    other = Path(shutil.copytree(folder, tmp_path / "else" / folder.name))  # with the same times
    weights = other / "model.safetensors"
    before, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert model_sha256(other, cache) != first


def test_a_home_that_can_not_be_written_does_no_harm(folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert model_sha256(folder, tmp_path / "file" / "cache")


def test_a_broken_note_is_not_believed(folder, cache):
    first = model_sha256(folder, cache)
    for text in ("{}", "[]", "no JSON", "null"):
        for note in (cache / "sha256").iterdir():
            note.write_text(text)
        assert model_sha256(folder, cache) == first


# ---- models ----


def test_a_hub_id_is_told_that_hubs_are_never_asked(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"--model 'org/name': .*hubs are never asked"):
        fetch_model(f"{tmp_path}/org/name", cache)
    with pytest.raises(SettingsError, match=r"/nowhere/x': there is no such folder\.$"):
        fetch_model("/nowhere/x", cache)


def test_a_model_in_a_bucket_is_fetched_once_and_is_the_same(folder, cache):
    place = "mem://models/tiny-1"
    put_folder(folder, place)
    for name in ("optimizer.pt", "light/model.safetensors", "metrics/1.json"):
        open_store(place).put(f"{place}/{name}", b"never fetched")
    first = fetch_model(place, cache)
    assert names(first) == names(folder)
    (first / "mark").touch()
    assert (fetch_model(place, cache) / "mark").exists()
    assert model_sha256(first, cache) == model_sha256(folder, cache)


def test_a_changed_model_in_a_bucket_is_fetched_anew(folder, cache):
    place = "mem://models/tiny-2"
    put_folder(folder, place)
    first = fetch_model(place, cache)
    open_store(place).put(f"{place}/config.json", b"{}")
    second = fetch_model(place, cache)
    assert second != first
    assert (second / "config.json").read_bytes() == b"{}"
    open_store(place).put(f"{place}/config.json", b"[]")  # as long as before
    assert fetch_model(place, cache) != second


def test_a_bucket_without_weights_is_refused(cache):
    open_store("mem://models").put("mem://models/none/config.json", b"{}")
    with pytest.raises(SettingsError, match=r"'mem://models/none': there is no \*\.safetensors"):
        fetch_model("mem://models/none", cache)


def test_replicas_that_start_at_once_share_one_fetch(folder, cache, bucket):
    place = f"s3://{bucket}/models/tiny"
    put_folder(folder, place)
    with ThreadPoolExecutor(4) as pool:  # the lock keeps threads apart as it does processes
        found = set(pool.map(lambda _: fetch_model(place, cache), range(4)))
    (fetched,) = found
    kept = {path.name for path in (cache / "models").iterdir()}
    assert kept == {fetched.name, *(f"{fetched.name}.{end}" for end in ("json", "lock", "use"))}
    for path in folder.iterdir():
        assert (fetched / path.name).read_bytes() == path.read_bytes()


# ---- adapters ----


def test_an_adapter_in_a_bucket_is_fetched_with_its_folder_of_whole_parts(adapter, cache):
    place = "mem://adapters/one"
    put_folder(adapter, place)
    for name in ("adapter_model.bin", "light/x.bin", "dark/model.safetensors"):
        open_store(place).put(f"{place}/{name}", b"never fetched")
    (adapter / "README.md").unlink(missing_ok=True)
    fetched = fetch_adapter(place, cache)
    assert names(fetched) == names(adapter)
    assert "light/model.safetensors" in names(adapter)
    assert digest_adapter(fetched, cache) == digest_adapter(adapter, cache)
    assert fetch_adapter(f"{adapter}", cache) == adapter


@pytest.mark.parametrize("bucket", [False, True])
def test_what_is_no_adapter_is_refused_before_anything_is_fetched(adapter, cache, bucket):
    def refusal() -> str:
        place = f"mem://adapters/{len(names(adapter))}" if bucket else f"{adapter}"
        if bucket:
            put_folder(adapter, place)
        with pytest.raises(SettingsError) as caught:
            fetch_adapter(place, cache)
        assert f"{caught.value}".startswith(f"--adapter '{place}' ")
        return f"{caught.value}"

    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "holds adapter_model.bin, a pickle" in refusal()
    (adapter / "adapter_config.json").unlink()
    assert "holds no adapter_config.json" in refusal()
    assert not (cache / "adapters").exists()


def test_a_folder_that_is_not_there_is_named(cache):
    with pytest.raises(SettingsError, match=r"^--adapter '/nowhere': there is no such folder"):
        fetch_adapter("/nowhere", cache)


def test_pickles_beside_an_adapter_are_never_read(adapter, cache):
    for path in (adapter / "light").iterdir():
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match=r"pickled weights"):
        digest_adapter(adapter, cache)
