import json
import stat

import pytest
import torch
from safetensors.torch import save_file

from pixellm.errors import CheckpointError
from pixellm.weights import INDEX_FILE, WEIGHTS_FILE, WeightFiles, save_weights

TENSORS = {f"t{n}": torch.full((2, n + 1), float(n)) for n in range(5)}


def read(folder):
    files = WeightFiles(folder)
    return {key: files.get(key) for key in files.keys()}  # noqa: SIM118


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_what_was_written_in_one_file_is_read_again(tmp_path):
    save_weights(TENSORS.items(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS_FILE]
    assert same(read(tmp_path), TENSORS)
    assert WeightFiles(tmp_path).shape("t3") == (2, 4)
    assert stat.S_IMODE((tmp_path / WEIGHTS_FILE).stat().st_mode) == 0o644


def test_many_weights_are_written_in_shards_with_an_index(tmp_path):
    save_weights(TENSORS.items(), tmp_path, shard_bytes=48)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == sum(8 * (n + 1) for n in range(5))
    assert sorted({*index["weight_map"].values(), INDEX_FILE}) == sorted(
        path.name for path in tmp_path.iterdir()
    )
    assert index["weight_map"]["t0"] == "model-00001-of-00003.safetensors"
    assert same(read(tmp_path), TENSORS)


def test_weights_are_taken_one_by_one_and_let_go_with_their_file(tmp_path):
    alive, most = [], []

    def lazily():
        for key, value in TENSORS.items():
            if len(list(tmp_path.iterdir())) > len(most):
                most.append(len(alive))
                alive.clear()
            alive.append(key)
            yield key, value.clone()

    save_weights(lazily(), tmp_path, shard_bytes=1)
    assert most == [2, 1, 1]  # the one that no longer fits is held while the file is written


def test_an_index_that_names_a_missing_file_names_it_back(tmp_path):
    save_weights(TENSORS.items(), tmp_path, shard_bytes=48)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003.safetensors' is missing"):
        WeightFiles(tmp_path)


def test_an_index_can_not_point_outside_of_its_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    save_file({"secret": torch.ones(1)}, tmp_path / "outside.safetensors")
    index = {"weight_map": {"secret": "../outside.safetensors"}}
    (tmp_path / "inside" / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"inside/outside.safetensors' is missing"):
        WeightFiles(tmp_path / "inside")


def test_a_weight_in_two_files_is_an_error(tmp_path):
    save_file({"t": torch.ones(1)}, tmp_path / "a.safetensors")
    save_file({"t": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"'t' is in .*b.safetensors' and in .*a.safetensors"):
        WeightFiles(tmp_path)


def test_a_missing_weight_is_named(tmp_path):
    save_weights(TENSORS.items(), tmp_path)
    for read_one in (WeightFiles(tmp_path).get, WeightFiles(tmp_path).shape):
        with pytest.raises(CheckpointError, match="the weight 'nothing' is missing"):
            read_one("nothing")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / WEIGHTS_FILE).write_bytes(b"\x00" * 32)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE}' isn't a readable safetensors file"):
        WeightFiles(tmp_path)


def test_a_folder_without_weights_says_what_it_is(tmp_path):
    with pytest.raises(CheckpointError, match="Model hubs are never asked"):
        WeightFiles(tmp_path / "owner" / "name")
    with pytest.raises(CheckpointError, match="is this a model folder"):
        WeightFiles(tmp_path)
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"never loaded here.*python -m pixellm.convert"):
        WeightFiles(tmp_path)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": None}, {"weight_map": 5}])
def test_an_index_that_names_no_files_is_refused(index, tmp_path):
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="has no `weight_map` from weights to files"):
        WeightFiles(tmp_path)
