import json
from dataclasses import replace

import pytest

from pixellm.config import (
    DecoderSizes,
    clip_from_json,
    config_from_json,
    default_feature_layers,
)
from pixellm.config_values import read_json
from pixellm.errors import ConfigError
from pixellm.tiny import tiny_checkpoint
from tests.official import FIXTURE

SIZES = DecoderSizes(width=64, mlp=128, scales=2)


@pytest.fixture
def official():
    """config.json of the model and of its CLIP."""
    clip = read_json(FIXTURE / "clip" / "config.json")
    return read_json(FIXTURE / "hf_model" / "config.json"), clip_from_json(clip, "clip")


def test_the_official_config_gives_the_official_sizes(official):
    config = config_from_json(*official, SIZES, 3)
    assert (config.image_side, config.patch, config.grid) == (448, 14, 32)
    assert (config.scales, config.tokens_per_scale, config.group_size) == (2, 3, 6)
    assert (config.llm_grid, config.image_tokens, config.mask_side) == (16, 256, 128)
    assert config.feature_layers == (-2, -11)
    assert config.system_text is None


def test_the_vision_tower_has_no_layer_that_no_feature_needs(official):
    config = config_from_json(*official, SIZES, 3)
    assert config.clip["num_hidden_layers"] == 12
    assert config.clip_config().num_hidden_layers == 11
    assert config.clip_config().image_size == 448
    assert replace(config, feature_layers=(-1, -3)).clip_config().num_hidden_layers == 12


def test_the_language_models_constants_are_taken_over(official):
    keys, clip = official
    llama = config_from_json({**keys, "rms_norm_eps": 1e-5}, clip, SIZES, 3).llama_config()
    assert (llama.rms_norm_eps, llama.rope_parameters["rope_theta"]) == (1e-5, 10_000.0)
    assert (llama.hidden_size, llama.num_attention_heads, llama.vocab_size) == (64, 4, 408)
    other = config_from_json({**keys, "rope_theta": 500_000.0}, clip, SIZES, 3).llama_config()
    assert other.rope_parameters["rope_theta"] == 500_000.0


def test_feature_layers_go_on_at_the_official_distance_beyond_two_scales():
    assert [default_feature_layers(-2, n) for n in (1, 2, 3)] == [
        (-2,),
        (-2, -11),
        (-2, -11, -20),
    ]


def test_a_config_written_and_read_again_is_the_same():
    for sizes in ({}, {"scales": 3, "tokens_per_scale": 1, "clip_side": 28}):
        config = tiny_checkpoint(0, **sizes).model.config
        keys = json.loads(config.to_json())
        again = config_from_json(
            keys, clip_from_json(keys, "it"), config.decoder, config.tokens_per_scale
        )
        assert replace(again, official={}) == replace(config, official={})
        assert json.loads(again.to_json()) == keys


def test_official_keys_that_are_not_used_are_kept(official):
    keys = json.loads(config_from_json(*official, SIZES, 3).to_json())
    assert keys["mm_projector_hidden_dim"] == 2
    assert keys["model_type"] == "llava"
    assert keys["vision_config"]["image_size"] == 336


def test_a_reference_fixture_says_its_image_side_in_a_key_of_its_own(official):
    keys, clip = official
    config = config_from_json({**keys, "ref_image_size": 112}, clip, SIZES, 3)
    assert config.image_side == 112
    written = json.loads(config.to_json())
    assert written["resize_vision_tower_size"] == 112
    assert "ref_image_size" not in written


def test_a_whole_clips_config_is_read_like_its_vision_part(official):
    _, clip = official
    assert clip_from_json({"model_type": "clip", "vision_config": clip}, "it") == clip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ref_image_size": 450}, "image side 450 isn't a multiple of the patch size 14"),
        ({"mm_vision_select_layer": -14}, "feature layer -14 lies outside .* 12 layers"),
        ({"mask_feature_layers": [-2]}, r"2 scales need as many feature layers, got \(-2,\)"),
        ({"hidden_size": None}, "config.json lacks 'hidden_size'"),
        ({"hidden_size": True}, r"has True as 'hidden_size', which must be a whole number from 1"),
        ({"num_hidden_layers": "9" * 5000}, r"has '9{39} as 'num_hidden_layers'"),
        ({"vocab_size": 1.5}, "has 1.5 as 'vocab_size'"),
        ({"intermediate_size": 10**30}, "as 'intermediate_size'"),
        ({"rms_norm_eps": "1e-6"}, "has '1e-6' as 'rms_norm_eps', which must be a number above 0"),
        ({"rope_theta": float("inf")}, "has inf as 'rope_theta'"),
        ({"hidden_act": 3}, "has 3 as 'hidden_act', which must be a text: take the file"),
        ({"pad_token_id": "0"}, "as 'pad_token_id', which must be a whole number"),
        ({"system_text": ["a"]}, "as 'system_text', which must be a text or null"),
        ({"mm_vision_select_layer": None}, "config.json has None as 'mm_vision_select_layer'"),
        ({"mask_feature_layers": 2}, "as 'mask_feature_layers', which must be a list of whole"),
        ({"mask_feature_layers": [-2, "x"]}, "as 'mask_feature_layers', which must be a list of"),
        ({"llm_grid": 0}, "has 0 as 'llm_grid'"),
        ({"mask_side": None}, "has None as 'mask_side'"),
        ({"ref_image_size": "448"}, "has '448' as 'ref_image_size'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
    ],
)
def test_sizes_that_can_not_be_are_named(change, said, official):
    keys, clip = official
    with pytest.raises(ConfigError, match=said):
        config_from_json({**keys, **change}, clip, SIZES, 3)


def test_a_decoder_width_must_fit_its_heads(official):
    with pytest.raises(ConfigError, match="decoder width 40 isn't a multiple of 16"):
        config_from_json(*official, replace(SIZES, width=40), 3)


def test_a_clip_config_without_a_size_names_it(official):
    _, clip = official
    with pytest.raises(ConfigError, match="the folder lacks 'patch_size'"):
        clip_from_json({key: v for key, v in clip.items() if key != "patch_size"}, "the folder")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"patch_size": 0},
            "the folder has 0 as 'patch_size', which must be a whole number from 1",
        ),
        ({"num_hidden_layers": None}, "has None as 'num_hidden_layers'"),
        ({"layer_norm_eps": -1e-5}, "as 'layer_norm_eps', which must be a number above 0"),
        ({"hidden_act": 3}, "as 'hidden_act', which must be a text"),
        ({"vision_config": "x"}, "the folder lacks 'hidden_size'"),
    ],
)
def test_a_wrong_value_of_clip_is_named(change, said, official):
    _, clip = official
    with pytest.raises(ConfigError, match=said):
        clip_from_json({**clip, **change}, "the folder")


def test_a_clip_config_that_is_no_object_is_told(official):
    with pytest.raises(ConfigError, match="the folder lacks 'hidden_size'"):
        clip_from_json([], "the folder")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is missing"),
        ("{", "can't be read as JSON"),
        ("[1]", "holds a list"),
        ("[" * 100_000, "can't be read as JSON"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "can't be read as JSON"),
    ],
    ids=["none", "broken", "list", "deep", "long"],
)
def test_a_file_that_is_no_json_object_is_named(text, said, tmp_path):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=rf"config.json' {said}"):
        read_json(path)
