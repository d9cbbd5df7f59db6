import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pixellm.checkpoints import CLIP_PREFIX, load_checkpoint, official_state, save_checkpoint
from pixellm.convert import convert, main
from pixellm.errors import CheckpointError
from pixellm.tiny import tiny_checkpoint
from pixellm.weights import WEIGHTS_FILE
from tests.official import FIXTURE

CLIP = FIXTURE / "clip"
PICKLES = "pytorch_model-{:05d}-of-{:05d}.bin"


def same(left, right):
    ours, theirs = left.model.state_dict(), right.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def quietly(_line):
    pass


@pytest.fixture(scope="module")
def official():
    return load_checkpoint(FIXTURE / "hf_model", CLIP)


@pytest.fixture
def folder(tmp_path):
    """A copy of the official folder with its pickle."""
    return Path(shutil.copytree(FIXTURE / "hf_model_bin", tmp_path / "official"))


def pickled(folder):
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


def repickle(folder, weights):
    torch.save(weights, folder / "pytorch_model.bin")


# ---- forms ----


def test_a_published_pickle_and_clip_become_one_folder_that_loads_bit_for_bit(official, tmp_path):
    model, output = str(FIXTURE / "hf_model_bin"), str(tmp_path / "ours")
    assert main(["--model", model, "--clip", str(CLIP), "--output", output]) == 0
    assert same(official, load_checkpoint(tmp_path / "ours"))
    names = {path.name for path in (tmp_path / "ours").iterdir()}
    assert {"config.json", WEIGHTS_FILE, "tokenizer.model", "added_tokens.json"} <= names
    assert not [name for name in names if name.endswith(".bin")]


def test_shards_are_read_and_shards_are_written(official, folder, tmp_path, monkeypatch):
    weights, (first, second) = pickled(folder), (PICKLES.format(n, 2) for n in (1, 2))
    (folder / "pytorch_model.bin").unlink()
    keys = sorted(weights)
    torch.save({key: weights[key] for key in keys[::2]}, folder / first)
    torch.save({key: weights[key] for key in keys[1::2]}, folder / second)
    monkeypatch.setattr("pixellm.convert.SHARD_BYTES", 400_000)
    lines = []
    convert(folder, CLIP, tmp_path / "ours", report=lines.append)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 3
    assert same(official, load_checkpoint(tmp_path / "ours"))
    assert any(line.startswith("437 of 437 weights") for line in lines)

    (folder / second).unlink()
    with pytest.raises(CheckpointError, match=f"{second}' is missing: download it too"):
        convert(folder, CLIP, tmp_path / "more", report=quietly)


def test_the_training_time_form_is_merged(official, folder, tmp_path):
    weights = {f"base_model.model.{key}": value for key, value in pickled(folder).items()}
    own_clip = {
        k: v for k, v in official_state(official.model).items() if k.startswith(CLIP_PREFIX)
    }
    changed = f"{CLIP_PREFIX}vision_model.pre_layrnorm.bias"
    own_clip[changed] = own_clip[changed] + 1  # the model's own copy counts, not CLIP's folder
    weights |= {f"base_model.model.{key}": value.clone() for key, value in own_clip.items()}
    layer = "model.layers.1.self_attn.v_proj"
    down, up = torch.randn(8, 64), torch.randn(64, 8)
    weights[f"base_model.model.{layer}.lora_A.default.weight"] = down
    weights[f"base_model.model.{layer}.lora_B.default.weight"] = up
    repickle(folder, weights)
    convert(folder, CLIP, tmp_path / "ours", report=quietly)
    merged = official_state(load_checkpoint(tmp_path / "ours").model)
    for key, value in official_state(official.model).items():
        expected = value + 16 / 8 * up @ down if key == f"{layer}.weight" else value
        assert torch.equal(merged[key], own_clip.get(key, expected)), key

    convert(folder, CLIP, tmp_path / "weaker", lora_alpha=4, report=quietly)
    weaker = load_file(tmp_path / "weaker" / WEIGHTS_FILE)[f"{layer}.weight"]
    assert torch.equal(weaker, pickled(FIXTURE / "hf_model_bin")[f"{layer}.weight"] + up @ down / 2)


def test_clip_may_be_a_pickle_of_the_whole_clip(official, tmp_path):
    clip = tmp_path / "clip"
    clip.mkdir()
    shutil.copy(CLIP / "config.json", clip)
    extra = {"logit_scale": torch.ones(()), "text_model.final_layer_norm.bias": torch.ones(4)}
    torch.save({**load_file(CLIP / WEIGHTS_FILE), **extra}, clip / "pytorch_model.bin")
    convert(FIXTURE / "hf_model", clip, tmp_path / "ours", report=quietly)
    assert same(official, load_checkpoint(tmp_path / "ours"))


def test_old_pickles_that_can_not_be_mapped_are_read_too(official, folder, tmp_path):
    weights = pickled(folder)
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    convert(folder, CLIP, tmp_path / "ours", report=quietly)
    assert same(official, load_checkpoint(tmp_path / "ours"))


def test_the_precision_can_be_changed_on_the_way(official, folder, tmp_path):
    convert(folder, CLIP, tmp_path / "ours", dtype=torch.bfloat16, report=quietly)
    weights = load_file(tmp_path / "ours" / WEIGHTS_FILE)
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    for key, value in official_state(official.model).items():
        assert torch.equal(weights[key], value.to(torch.bfloat16))
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["torch_dtype"] == "bfloat16"


# ---- what is refused ----


def test_an_output_that_is_not_empty_is_refused(folder, tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "precious").touch()
    for taken in (tmp_path / "ours", tmp_path / "ours" / "precious"):
        with pytest.raises(CheckpointError, match="isn't an empty folder"):
            convert(folder, CLIP, taken, report=quietly)


def test_missing_and_unexpected_weights_are_named_and_nothing_is_written(folder, tmp_path, capsys):
    weights = pickled(folder)
    weights.pop("lm_head.weight")
    weights["model.extra"] = torch.ones(1)
    repickle(folder, weights)
    output = tmp_path / "ours"
    flags = ["--model", str(folder), "--clip", str(CLIP), "--output", str(output)]
    assert main(flags) == 1
    error = capsys.readouterr().err
    assert "unexpected weight 'model.extra'; missing weight 'lm_head.weight'" in error
    assert not output.exists()


def test_half_a_lora_pair_is_an_error(folder, tmp_path):
    key = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    repickle(folder, {**pickled(folder), key: torch.ones(8, 64)})
    with pytest.raises(CheckpointError, match=r"q_proj.lora_A.*can't be merged"):
        convert(folder, CLIP, tmp_path / "ours", report=quietly)


def test_a_lora_of_another_size_is_an_error(folder, tmp_path):
    layer = "model.layers.0.self_attn.q_proj"
    pair = {f"{layer}.lora_{half}.default.weight": torch.ones(8, 32) for half in "AB"}
    repickle(folder, {**pickled(folder), **pair})
    with pytest.raises(CheckpointError, match=r"shapes \(8, 32\) and \(8, 32\), which don't fit"):
        convert(folder, CLIP, tmp_path / "ours", report=quietly)


class Malice:
    """What a pickle can do to whoever opens it carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_a_pickle_that_holds_code_is_refused_and_nothing_of_it_is_run(form, folder, tmp_path):
    harm, path = tmp_path / "harm", folder / "pytorch_model.bin"
    weights = {**pickled(folder), "model.extra": Malice(harm)}
    if form == "plain":
        path.write_bytes(pickle.dumps(Malice(harm), protocol=2))
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match="is refused, nothing of it was run"):
        convert(folder, CLIP, tmp_path / "ours", report=quietly)
    assert not harm.exists()
    torch.load(path, weights_only=False) if form != "plain" else pickle.loads(path.read_bytes())
    assert harm.exists()  # it would have worked


@pytest.mark.parametrize(
    ("content", "said"),
    [([torch.ones(1)], "holds a list"), ({"step": 3}, "holds 'step', a int")],
)
def test_a_pickle_of_anything_but_named_tensors_is_refused(content, said, folder, tmp_path):
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=said):
        convert(folder, CLIP, tmp_path / "ours", report=quietly)


def test_a_damaged_pickle_is_refused(folder, tmp_path):
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="damaged"):
        convert(folder, CLIP, tmp_path / "ours", report=quietly)


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is it the folder of a model"):
        convert(tmp_path / "empty", CLIP, tmp_path / "ours", report=quietly)
    with pytest.raises(CheckpointError, match="isn't a folder"):
        convert(tmp_path / "no", CLIP, tmp_path / "ours", report=quietly)


def test_our_own_form_is_converted_into_itself(tmp_path):
    """Its CLIP is inside, so that the other one only gives sizes."""
    checkpoint = tiny_checkpoint(0)
    save_checkpoint(checkpoint.model, checkpoint.tokenizer, tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config["vision_config"]))
    shutil.copy(tmp_path / "a" / WEIGHTS_FILE, tmp_path / "clip")
    convert(tmp_path / "a", tmp_path / "clip", tmp_path / "b", report=quietly)
    assert same(checkpoint, load_checkpoint(tmp_path / "b"))
