"""The doctor's checks of a model: each is made to fail by a folder that is wrong."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pixellm.checkpoints import check_folder, load_checkpoint
from pixellm.errors import PixelLMError
from pixellm.weights import INDEX_FILE, save_weights
from tests.test_model_folders import put_folder
from workers.doctor.findings import Outcome
from workers.doctor.weights import check_weights, read_header
from workers.settings import SHIPPED_MODEL
from workers.storage.checksums import Checksum
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.stores import open_store

OK, WARNING, FAILURE = Outcome.OK, Outcome.WARNING, Outcome.FAILURE


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "tiny"))


def examine(place, store=None):
    found = check_weights(store or open_store(f"{place}"), f"{place}")
    return {each.check.removeprefix("weights."): each for each in found}


def test_the_shipped_model_has_nothing_to_complain_of():
    found = examine(SHIPPED_MODEL)
    assert {each.outcome for each in found.values()} == {OK}
    assert "128 x 8, images of 128 pixels, 2 scales of 3 tokens" in found["sizes"].seen
    assert "Apache-2.0" in found["licence"].seen


def test_a_model_in_a_real_bucket_is_looked_at_without_fetching_its_weights(folder, bucket):
    put_folder(folder, f"s3://{bucket}/tiny")
    found = examine(f"s3://{bucket}/tiny")
    outcomes = [found[name].outcome for name in ("form", "whole", "sizes", "checksum")]
    assert outcomes == [OK] * 4
    read = []

    class Watched(MemoryStore):
        def get(self, uri, start=0, length=None):
            data = super().get(uri, start, length)
            read.append((uri.rpartition("/")[2], len(data)))
            return data

    store = Watched()
    for path in folder.iterdir():
        store.put(f"mem://b/tiny/{path.name}", path.read_bytes())
    assert examine("mem://b/tiny", store)["sizes"].outcome is OK
    of_weights = sum(count for name, count in read if name == "model.safetensors")
    assert 0 < of_weights < (folder / "model.safetensors").stat().st_size / 4


def test_pickled_weights_are_refused_with_the_command_that_converts_them(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    found = examine(folder)["form"]
    assert found.outcome is FAILURE
    assert "only pickled weights (pytorch_model.bin)" in found.seen
    assert "python -m pixellm.convert" in found.to_do


def test_pickles_beside_the_weights_are_a_warning(folder):
    (folder / "optimizer.pt").write_bytes(b"")
    assert examine(folder)["form"].outcome is WARNING


def test_a_folder_without_weights_and_one_that_is_not_there_are_failures(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    found = examine(folder)["form"]
    assert (found.outcome, "no *.safetensors" in found.seen) == (FAILURE, True)
    for place, seen in (
        (tmp_path / "nowhere", "nowhere': there is no such folder"),
        (empty_folder(tmp_path), "nothing lies in"),
        ("mem://models/none", "nothing lies under 'mem://models/none'"),
    ):
        (found,) = examine(place).values()  # and nothing is said of its licence
        assert (found.outcome, seen in found.seen) == (FAILURE, True)
        assert "a folder with config.json and *.safetensors" in found.to_do


def empty_folder(above):
    (above / "empty").mkdir()
    return above / "empty"


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x"])
def test_a_file_that_was_cut_off_or_grew_is_found_by_its_header(folder, change):
    weights = folder / "model.safetensors"
    weights.write_bytes(change(weights.read_bytes()))
    found = examine(folder)["whole"]
    assert (found.outcome, "its header says" in found.seen) == (FAILURE, True)


@pytest.fixture
def sharded(folder) -> Path:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_weights(weights.items(), folder, sum(each.nbytes for each in weights.values()) // 2)
    return folder


def test_a_model_of_which_a_file_is_missing_that_its_index_names_is_not_whole(sharded):
    first, *others = sorted(path.name for path in sharded.glob("*.safetensors"))
    found = examine(sharded)
    assert (found["whole"].outcome, found["sizes"].outcome) == (OK, OK)
    assert others
    for name in (first, others[-1]):
        data = (sharded / name).read_bytes()
        (sharded / name).unlink()
        found = examine(sharded)["whole"]
        assert (found.outcome, f"names what is not there: {name}" in found.seen) == (FAILURE, True)
        (sharded / name).write_bytes(data)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_that_names_no_files_is_a_failure(sharded, text):
    (sharded / INDEX_FILE).write_text(text)
    found = examine(sharded)["whole"]
    assert (found.outcome, "has no `weight_map`" in found.seen) == (FAILURE, True)
    with pytest.raises(PixelLMError):
        load_checkpoint(sharded)


def test_a_file_that_the_index_does_not_name_is_none_of_the_model(sharded):
    (sharded / "older.safetensors").write_bytes(b"cut off")
    load_checkpoint(sharded)
    found = examine(sharded)
    assert (found["whole"].outcome, found["sizes"].outcome) == (OK, OK)


def headed(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


DEEP = headed(b"[" * 100_000)
ENDLESS = headed(b'{"a": {"shape": [1e999], "data_offsets": [0, 4], "dtype": "F32"}}')


@pytest.mark.parametrize(
    "data", [b"", b"not one", headed(b"[]"), bytes(9), DEEP, ENDLESS], ids=range(6)
)
def test_a_file_that_is_no_safetensors_is_told(folder, data):
    (folder / "model.safetensors").write_bytes(data)
    assert examine(folder)["whole"].outcome is FAILURE


def test_a_header_says_what_the_loaded_weights_are(folder):
    path = folder / "model.safetensors"
    header = read_header(LocalStore(), LocalStore().stat(f"{path}"))
    assert header.bytes_due == header.bytes_there == path.stat().st_size
    from pixellm.weights import WeightFiles

    weights = WeightFiles(folder)
    assert header.shapes == {key: weights.shape(key) for key in weights.keys()}  # noqa: SIM118


def test_sizes_that_do_not_fit_together_are_a_failure(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 3}))
    found = examine(folder)["sizes"]
    assert found.outcome is FAILURE
    assert "don't belong together" in found.seen
    assert "/tmp" not in found.seen
    (folder / "config.json").write_text("{}")
    assert "pixellm.convert" in examine(folder)["sizes"].to_do
    (folder / "config.json").unlink()
    assert examine(folder)["sizes"].outcome is FAILURE


@pytest.mark.parametrize(
    ("key", "value"),
    [("mm_vision_select_layer", None), ("vocab_size", "x"), ("mask_side", 0)],
)
def test_a_value_that_can_not_be_is_a_failure_that_names_it(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    found = examine(folder)["sizes"]
    assert found.outcome is FAILURE
    assert f"config.json has {value!r} as {key!r}, which must be a whole number" in found.seen


def test_values_of_which_no_model_can_be_made_are_a_failure(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "no such"}))
    found = examine(folder)["sizes"]
    assert (found.outcome, "of which no model can be made" in found.seen) == (FAILURE, True)


def test_sizes_of_a_model_whose_weights_have_others_are_a_failure_that_names_a_weight(folder):
    config = json.loads((folder / "config.json").read_text())
    wider = {**config, "hidden_size": 2 * config["hidden_size"]}
    (folder / "config.json").write_text(json.dumps(wider))
    check_folder(folder)  # a model can be made of it
    found = examine(folder)["sizes"]
    assert found.outcome is FAILURE
    assert "weight 'lm_head.weight' has the shape" in found.seen
    deeper = {**config, "num_hidden_layers": 1 + config["num_hidden_layers"]}
    (folder / "config.json").write_text(json.dumps(deeper))
    assert "missing weight 'model.layers." in examine(folder)["sizes"].seen


@pytest.mark.parametrize("name", ["config.json", "added_tokens.json", "tokenizer_config.json"])
def test_a_file_that_is_nested_without_end_is_a_failure(folder, name):
    (folder / name).write_text("[" * 100_000)
    found = examine(folder)["sizes"]
    assert (found.outcome, name in found.seen) == (FAILURE, True)


def test_a_store_that_says_no_checksum_is_a_warning_that_names_the_files(folder):
    class Silent(MemoryStore):
        def checksum(self, info):
            return None if info.uri.endswith(".safetensors") else Checksum("md5", "ab")

    store = Silent()
    for path in folder.iterdir():
        store.put(f"mem://b/tiny/{path.name}", path.read_bytes())
    found = examine("mem://b/tiny", store)["checksum"]
    assert found.outcome is WARNING
    assert "model.safetensors" in found.seen
    assert "config.json" not in found.seen


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("README.md", "---\nlicense: llama2\n---\n# A model", "README.md says 'llama2'"),
        ("README.md", "| Licence: | x |\n\nLicence: CC BY 4.0\n", "README.md says 'CC BY 4.0'"),
        ("LICENSE", "\n  Apache License\n", "LICENSE begins 'Apache License'"),
        ("LICENSE.txt", "MIT", "LICENSE.txt begins 'MIT'"),
    ],
)
def test_what_a_folder_says_of_its_licence_is_read_out(folder, name, text, said):
    (folder / name).write_text(text)
    found = examine(folder)["licence"]
    assert (found.outcome, found.seen) == (OK, said)


def test_a_folder_that_says_nothing_of_a_licence_is_a_warning(folder):
    (folder / "README.md").write_text("# A model\n")
    found = examine(folder)["licence"]
    assert (found.outcome, "LLaMA" in found.to_do) == (WARNING, True)
