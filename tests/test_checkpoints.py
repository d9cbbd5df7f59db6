import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pixellm.checkpoints import (
    POSITION_TABLE,
    check_folder,
    load_checkpoint,
    official_name,
    official_state,
    save_checkpoint,
)
from pixellm.errors import CheckpointError, ConfigError
from pixellm.model import PixelLM
from pixellm.tiny import tiny_checkpoint
from pixellm.weights import WEIGHTS_FILE, save_weights
from tests.official import FIXTURE, META


@pytest.fixture(scope="module")
def checkpoint():
    return tiny_checkpoint(0)


@pytest.fixture
def folder(checkpoint, tmp_path):
    save_checkpoint(checkpoint.model, checkpoint.tokenizer, tmp_path / "model")
    return tmp_path / "model"


def change(folder, edit):
    """Rewrites a folder's weights."""
    weights = load_file(folder / WEIGHTS_FILE)
    edit(weights)
    save_file(weights, folder / WEIGHTS_FILE)


def same(left, right):
    ours, theirs = left.model.state_dict(), right.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# ---- forms ----


@pytest.mark.parametrize(
    "sizes", [{}, {"scales": 1, "tokens_per_scale": 1}, {"scales": 3}, {"clip_side": 28}]
)
def test_what_was_saved_is_loaded_bit_for_bit(sizes, tmp_path):
    before = tiny_checkpoint(1, **sizes)
    save_checkpoint(before.model, before.tokenizer, tmp_path / "model")
    after = load_checkpoint(tmp_path / "model")
    assert same(before, after)
    ours, theirs = before.model.config, after.model.config
    assert (ours.decoder, ours.tokens_per_scale) == (theirs.decoder, theirs.tokens_per_scale)
    assert (ours.feature_layers, ours.llm_grid) == (theirs.feature_layers, theirs.llm_grid)
    assert (ours.image_side, ours.mask_side) == (theirs.image_side, theirs.mask_side)
    assert (ours.clip, ours.llama) == (theirs.clip, theirs.llama)
    assert theirs.system_text == ""
    assert not after.model.training


def test_the_official_form_is_loaded_with_clips_own_folder(tmp_path):
    official = load_checkpoint(FIXTURE / "hf_model", FIXTURE / "clip")
    save_checkpoint(official.model, official.tokenizer, tmp_path / "ours")
    assert same(official, load_checkpoint(tmp_path / "ours"))
    assert official.model.config.system_text is None


def test_our_weights_have_the_official_names_and_shapes():
    official = load_checkpoint(FIXTURE / "hf_model", FIXTURE / "clip")
    wanted = META["state_dict_keys"]
    for key, value in official_state(official.model).items():
        assert wanted[key] == list(value.shape), key


def test_an_official_folder_without_clip_says_what_to_do():
    with pytest.raises(ConfigError, match=r"give CLIP's folder too, or .*pixellm.convert"):
        load_checkpoint(FIXTURE / "hf_model")


def test_our_own_vision_tower_is_never_replaced(folder, checkpoint):
    assert same(checkpoint, load_checkpoint(folder, FIXTURE / "clip"))


def test_shards_are_loaded_like_one_file(folder, checkpoint):
    weights = load_file(folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).unlink()
    save_weights(sorted(weights.items()), folder, shard_bytes=50_000)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 9
    assert same(checkpoint, load_checkpoint(folder))


def test_weights_come_in_the_precision_asked_for(folder, checkpoint):
    half = load_checkpoint(folder, dtype=torch.bfloat16).model
    assert {value.dtype for value in half.state_dict().values()} == {torch.bfloat16}
    head = checkpoint.model.language.lm_head.weight
    assert torch.equal(half.language.lm_head.weight, head.to(torch.bfloat16))
    # angles of positions would be far off in bf16
    assert half.language.model.rotary_emb.inv_freq.dtype == torch.float32


# ---- what is wrong is named ----


def test_a_missing_weight_is_named(folder):
    change(folder, lambda weights: weights.pop("model.text_hidden_fcs.0.2.bias"))
    with pytest.raises(CheckpointError, match=r"missing weight 'model.text_hidden_fcs.0.2.bias'"):
        load_checkpoint(folder)


def test_an_unexpected_weight_is_named(folder):
    change(folder, lambda weights: weights.update({"model.extra.weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"unexpected weight 'model.extra.weight'"):
        load_checkpoint(folder)


def test_a_wrongly_shaped_weight_is_named_with_both_shapes(folder):
    key = "model.mm_projector.0.bias"
    change(folder, lambda weights: weights.update({key: torch.ones(5)}))
    with pytest.raises(CheckpointError, match=rf"{key}' has the shape \(5,\), the model needs"):
        load_checkpoint(folder)


def test_all_problems_are_told_at_once_the_first_five_by_name(folder):
    def edit(weights):
        for layer in range(2):
            for name in ("q", "k", "v", "o"):
                weights.pop(f"model.layers.{layer}.self_attn.{name}_proj.weight")

    change(folder, edit)
    with pytest.raises(CheckpointError, match=r"layers.0.self_attn.k_proj.*\(and 3 more\)"):
        load_checkpoint(folder)


def test_a_position_table_that_is_no_square_is_an_error(folder):
    change(folder, lambda weights: weights.update({POSITION_TABLE: torch.ones(24, 32)}))
    with pytest.raises(CheckpointError, match=r"position_embedding.weight' has the shape \(24, 32"):
        load_checkpoint(folder)


def test_weights_that_no_computation_reads_may_be_there(folder, checkpoint):
    unused = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6),
        "model.prompt_encoder.point_embeddings.3.weight": torch.ones(1, 32),
        "model.vision_tower.vision_tower.vision_model.post_layernorm.bias": torch.ones(32),
    }
    change(folder, lambda weights: weights.update(unused))
    assert same(checkpoint, load_checkpoint(folder))


def test_a_tokenizer_of_another_model_is_an_error(folder):
    tiny_checkpoint(0, scales=2, tokens_per_scale=5).tokenizer.save(folder)
    with pytest.raises(CheckpointError, match="they don't belong together"):
        load_checkpoint(folder)


def test_codebook_tokens_that_can_not_be_shared_among_the_scales_are_an_error(folder):
    tiny_checkpoint(0, scales=1, tokens_per_scale=5).tokenizer.save(folder)
    with pytest.raises(CheckpointError, match=r"5 segmentation tokens.*2 image scales"):
        load_checkpoint(folder)


def test_pickles_are_refused_with_the_way_out(tmp_path):
    shutil.copytree(FIXTURE / "hf_model_bin", tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"never loaded here.*python -m pixellm.convert"):
        load_checkpoint(tmp_path / "model", FIXTURE / "clip")


# ---- names and digest ----


def test_every_weight_has_one_official_name(checkpoint):
    names = [official_name(name) for name in checkpoint.model.state_dict()]
    assert len(set(names)) == len(names)
    with pytest.raises(CheckpointError, match=r"no official name is known for 'strange.weight'"):
        official_name("strange.weight")


@pytest.mark.parametrize("name", ["config.json", "special_tokens_map.json", WEIGHTS_FILE])
def test_the_digest_changes_with_every_file_that_decides_an_answer(folder, name):
    before = load_checkpoint(folder).sha256
    assert before == load_checkpoint(folder).sha256
    if name == WEIGHTS_FILE:
        change(folder, lambda weights: weights["lm_head.weight"].add_(1))
    else:
        (folder / name).write_text((folder / name).read_text() + " ")
    assert load_checkpoint(folder).sha256 != before


def test_a_model_is_built_without_being_initialised(monkeypatch, folder):
    def refuse(tensor, *_, **__):
        assert tensor.is_meta, "weights are drawn only to be overwritten"
        return tensor

    for draw in ("normal_", "uniform_", "trunc_normal_", "fill_", "zero_"):
        monkeypatch.setattr(torch.Tensor, draw, refuse, raising=False)
    assert isinstance(load_checkpoint(folder).model, PixelLM)


@pytest.mark.parametrize(
    "change",
    [{"hidden_act": "no such"}, {"num_attention_heads": 7}, {"pad_token_id": 10**6}],
    ids=["activation", "heads", "padding"],
)
def test_values_of_which_no_model_can_be_made_are_found_without_its_weights(change, folder):
    check_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ConfigError):
        check_folder(folder)
