"""What a model has learned, in a folder beside it: written as PEFT does, read without PEFT."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from pixellm.adapter_folder import LIGHT_FOLDER
from pixellm.adapters import fill_whole, load_adapter
from pixellm.checkpoints import official_state
from pixellm.digests import adapter_sha256
from pixellm.errors import CheckpointError, ConfigError
from pixellm.learners import Tuning
from pixellm.tiny import tiny_checkpoint
from pixellm.weights import WeightFiles, pack_tensors, unpack_tensors
from tests.test_tuning import batch, learned, losses_of


def model():
    return tiny_checkpoint(0).model


def logits_of(model):
    """(rows, length, vocabulary) of some words."""
    ids = batch().ids.clamp(min=0)
    with torch.no_grad():
        return model.language.lm_head(model.language.model(input_ids=ids).last_hidden_state)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """An adapter, and all weights of the model that has learned it."""
    folder, tuned = tmp_path_factory.mktemp("adapters") / "one", learned()
    tuned.save_adapter(folder)
    return folder, dict(tuned.merged_state()), losses_of(tuned.model)


@pytest.fixture
def folder(shelf, tmp_path):
    return shutil.copytree(shelf[0], tmp_path / "adapter")


def test_an_adapter_is_read_back_into_the_model_it_was_trained_from(shelf):
    folder, merged, losses = shelf
    back = load_adapter(model(), folder)
    for key, value in merged.items():
        assert torch.equal(official_state(back)[key], value), key
    assert losses_of(back) == pytest.approx(losses, rel=1e-5)


def test_plain_peft_reads_the_steps_and_what_was_learned_whole_fits_beside_them(shelf):
    plain = PeftModel.from_pretrained(model(), str(shelf[0])).eval()
    inner = plain.base_model.model
    before = logits_of(inner)
    # PEFT has given the layers that it adapts other names; what was learned whole is not adapted
    fill_whole(inner, WeightFiles(shelf[0] / LIGHT_FOLDER))
    ours = logits_of(load_adapter(model(), shelf[0]))
    torch.testing.assert_close(logits_of(inner), ours, rtol=0, atol=1e-4)
    assert not torch.allclose(before, ours, atol=1e-2)


def test_plain_peft_needs_nothing_else_where_only_lora_learned(tmp_path):
    learned(Tuning(light=False, rank=4)).save_adapter(tmp_path)
    assert not (tmp_path / LIGHT_FOLDER).exists()
    plain = PeftModel.from_pretrained(model(), str(tmp_path)).eval()
    assert plain.peft_config["default"].r == 4
    ours = logits_of(load_adapter(model(), tmp_path))
    torch.testing.assert_close(logits_of(plain.base_model.model), ours, rtol=0, atol=1e-4)
    assert not torch.allclose(logits_of(model()), ours, atol=1e-2)


def test_an_adapter_that_plain_peft_made_is_merged_as_peft_merges_it(tmp_path):
    config = LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=Tuning().pattern,
        init_lora_weights=False,
        lora_dropout=0.1,
    )
    plain = get_peft_model(model(), config)
    plain.save_pretrained(str(tmp_path))
    merged = official_state(plain.merge_and_unload())
    ours = official_state(load_adapter(model(), tmp_path))
    for key, value in merged.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-6)


def test_weights_of_half_precision_stay_so(shelf):
    half = load_adapter(model().bfloat16(), shelf[0])
    for key, value in official_state(half).items():
        assert value.dtype == torch.bfloat16
        torch.testing.assert_close(value.float(), shelf[1][key], rtol=0.02, atol=1e-3)


def test_the_digest_is_of_what_decides_and_of_nothing_else(folder):
    first = adapter_sha256(folder)
    (folder / "README.md").write_text("for people")
    (folder / "training.json").write_text("{}")
    assert adapter_sha256(folder) == first
    seen = {first}
    for name in ("adapter_config.json", "adapter_model.safetensors", "light/model.safetensors"):
        data = (folder / name).read_bytes()
        end = b" }" if name.endswith(".json") else b" "  # of other bytes, and still readable
        (folder / name).write_bytes(data[:-1] + end)
        seen.add(adapter_sha256(folder))
        (folder / name).write_bytes(data)
    shutil.rmtree(folder / LIGHT_FOLDER)
    seen.add(adapter_sha256(folder))
    assert len(seen) == 5


@pytest.mark.parametrize("load", [lambda folder: load_adapter(model(), folder), adapter_sha256])
def test_a_folder_that_is_no_adapter_is_named_and_a_pickle_is_not_opened(folder, load):
    steps = folder / "adapter_model.safetensors"
    steps.rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter' holds adapter_model\.bin, a pickle"):
        load(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"holds no adapter_model\.safetensors: was it"):
        load(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json"):
        load(folder)
    with pytest.raises(CheckpointError, match=r"nowhere' holds no adapter_config\.json"):
        load(folder / "nowhere")


def test_an_adapter_of_another_model_is_refused_and_leaves_the_model_as_it_was(folder):
    other = tiny_checkpoint(0, tokens_per_scale=2).model
    before = {key: value.clone() for key, value in official_state(other).items()}
    with pytest.raises(CheckpointError, match="does not fit this model, which needs"):
        load_adapter(other, folder)
    assert all(torch.equal(before[key], value) for key, value in official_state(other).items())


def rewrite(folder, change):
    """Puts other steps into an adapter."""
    file = folder / "adapter_model.safetensors"
    file.write_bytes(pack_tensors(change(unpack_tensors(file.read_bytes()))))


def without(tensors, side):
    return {key: value for key, value in tensors.items() if f"lora_{side}" not in key}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda all_: {"base_model.model.x.lora_A.weight": torch.ones(8, 2)}, "no such layer"),
        (lambda all_: {"codebook.weight": torch.ones(8, 2)}, "no such layer"),
        (
            lambda all_: {"base_model.model.language.model.norm.lora_A.weight": torch.ones(8, 2)},
            "no such layer",
        ),
        (lambda all_: {key: value[:1] for key, value in all_.items()}, "does not fit this model"),
        (
            lambda all_: {key: value[:, :1].clone() for key, value in all_.items()},
            "does not fit this",
        ),
        (lambda all_: without(all_, "B"), r"lora_B\.weight' is missing"),
        (lambda all_: {}, "is empty: nothing was learned"),
    ],
)
def test_steps_that_have_no_place_in_the_model_are_refused(folder, change, told):
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=told):
        load_adapter(model(), folder)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA', and only plain LoRA"),
        ({"peft_type": None}, "peft_type = None"),
        ({"use_dora": True}, "use_dora = True"),
        ({"use_rslora": True}, "use_rslora = True"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\]"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config = {'a': 1}"),
        ({"something_new": 1}, "something_new = 1"),
        ({"r": 0}, "not 0 and 16"),
        ({"r": 4}, "does not fit this model"),
        ({"lora_alpha": "16"}, "not 8 and '16'"),
        ({"lora_alpha": float("nan")}, "not 8 and nan"),
        ({"lora_alpha": True}, "not 8 and True"),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_its_key(folder, values, told):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(CheckpointError, match=told):
        load_adapter(model(), folder)
    if "fit" not in told:  # all else is found without the model
        with pytest.raises(CheckpointError, match=told):
            adapter_sha256(folder)


def test_a_configuration_without_a_kind_or_without_sense_is_refused(folder):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({"r": 8, "lora_alpha": 16}))
    with pytest.raises(CheckpointError, match="peft_type = None"):
        load_adapter(model(), folder)
    file.write_text("[")
    with pytest.raises(ConfigError, match=r"adapter_config\.json' can't be read as JSON"):
        load_adapter(model(), folder)
