import re
from unittest.mock import Mock

import pytest
import torch
from transformers import DynamicCache

from pixellm.language import causal_bias
from pixellm.learners import Tuning
from pixellm.tiny import tiny_checkpoint
from pixellm.tokenizer import IMAGE_TOKEN_INDEX


@pytest.fixture(scope="module")
def model():
    return tiny_checkpoint(0).model


@pytest.fixture(scope="module")
def language(model):
    return model.language


def test_the_image_takes_the_place_of_its_marker(language):
    ids = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5], [1, 6, IMAGE_TOKEN_INDEX]])
    image = torch.randn(2, 3, 48)
    spliced = language.splice(ids, image)
    words = language.embed(torch.tensor([1, 5, 6]))
    assert spliced.shape == (2, 5, 48)
    torch.testing.assert_close(spliced[0], torch.cat([words[:1], image[0], words[1:2]]))
    torch.testing.assert_close(spliced[1], torch.cat([words[:1], words[2:], image[1]]))


@pytest.mark.parametrize("row", [[1, 5, 6], [IMAGE_TOKEN_INDEX, 5, IMAGE_TOKEN_INDEX]])
def test_a_row_needs_exactly_one_image(language, row):
    with pytest.raises(ValueError, match="exactly one image"):
        language.splice(torch.tensor([row]), torch.randn(1, 3, 48))


def test_nothing_looks_ahead_or_at_masked_slots():
    keys = torch.tensor([[1, 0, 1, 1]])
    bias = causal_bias(keys, 2, torch.float32)
    assert bias.shape == (1, 1, 2, 4)
    assert (bias[0, 0] == 0).int().tolist() == [[1, 0, 1, 0], [1, 0, 1, 1]]
    assert bias.min() == torch.finfo(torch.float32).min


def test_rows_of_several_conversations_say_themselves_who_sees_what():
    seen = torch.tensor([[[1, 0, 0], [1, 1, 0], [1, 0, 1]]])
    assert (causal_bias(seen, 3, torch.float32)[0, 0] == 0).int().tolist() == seen[0].tolist()


def test_reading_in_two_pieces_with_a_cache_equals_reading_at_once(language):
    embeds, keys = torch.randn(2, 7, 48), torch.ones(2, 7)
    keys[1, 2] = 0
    with torch.no_grad():
        whole = language(embeds, keys)
        cache = DynamicCache(config=language.model.config)
        first = language(embeds[:, :4], keys[:, :4], cache)
        second = language(embeds[:, 4:], keys, cache)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key_value_heads", [2, 1])
def test_for_keys_only_the_last_layer_makes_them_and_nothing_else(key_value_heads):
    language = tiny_checkpoint(0, heads=2, key_value_heads=key_value_heads).model.language
    embeds, keys = torch.randn(2, 7, 48), torch.ones(2, 7)
    keys[1, 2] = 0
    caches = [DynamicCache(config=language.model.config) for _ in range(2)]
    idle = Mock(side_effect=AssertionError("nobody reads it"))
    with torch.no_grad():
        language(embeds, keys, caches[0])
        language.model.layers[-1].mlp.forward = idle
        language.model.layers[-1].self_attn.o_proj.forward = idle
        language(embeds, keys, caches[1], keys_only=True)
    for full, only in zip(*(cache.layers for cache in caches), strict=True):
        assert torch.equal(full.keys, only.keys)
        assert torch.equal(full.values, only.values)


def test_masked_slots_keep_their_positions(language):
    """Padded image tokens count (Q21): masking one isn't the same as leaving it out."""
    embeds, keys = torch.randn(1, 5, 48), torch.tensor([[1, 0, 1, 1, 1]])
    kept = [0, 2, 3, 4]
    with torch.no_grad():
        masked = language(embeds, keys)[0, -1]
        positions = torch.tensor([kept])
        moved = language.depths(embeds[:, kept], torch.ones(1, 4), positions)[-1][0, -1]
        closed = language(embeds[:, kept], torch.ones(1, 4))[0, -1]
    torch.testing.assert_close(masked, moved, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(masked, closed, atol=1e-3)


def test_the_lora_pattern_means_the_language_models_queries_and_values(model):
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    adapted = [name for name in linear if re.fullmatch(Tuning().pattern, name)]
    assert sorted(adapted) == sorted(
        f"language.model.layers.{i}.self_attn.{p}_proj" for i in (0, 1) for p in "qv"
    )
    assert sum(name.endswith(("q_proj", "v_proj")) for name in linear) > len(adapted)
