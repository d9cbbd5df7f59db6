import copy

import numpy as np
import pytest
import torch

from pixellm.answers import DecodeSettings
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from pixellm.folding import fold_projector
from pixellm.images import prepare_image
from pixellm.model import PixelLM
from pixellm.tiny import tiny_checkpoint

TOKENS = DecodeSettings(max_new_tokens=24)


def maps_of(model: PixelLM, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        return model.encode_images(pixels, [(56, 40)] * len(pixels)).maps


def test_folded_maps_are_the_same_but_for_rounding():
    model = copy.deepcopy(tiny_checkpoint(6).model)
    with torch.no_grad():  # a bias that matters
        model.mask_projector[2].bias.normal_()
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    plain = maps_of(model, pixels)
    weights = sum(weight.numel() for weight in model.parameters())
    fold_projector(model)
    assert sum(weight.numel() for weight in model.parameters()) < weights
    for one, other in zip(plain, maps_of(model, pixels), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    folded = maps_of(model, pixels)
    fold_projector(model)  # twice is once
    assert all(map(torch.equal, folded, maps_of(model, pixels)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_product_of_the_weights_is_rounded(dtype):
    model = copy.deepcopy(tiny_checkpoint(6, dtype=dtype).model)
    widen, narrow = model.mask_projector[2], model.decoder.neck[0]
    exact = narrow.weight[:, :, 0, 0].double() @ widen.weight.double()
    fold_projector(model)
    folded = model.decoder.neck[0]
    assert torch.equal(folded.weight[:, :, 0, 0], exact.to(dtype))
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    assert {each.dtype for each in maps_of(model, pixels)} == {dtype}


def test_an_engine_folds_when_it_is_told_to_and_says_the_same():
    checkpoint = copy.deepcopy(tiny_checkpoint(6))
    rgb = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    sample = Sample(prepare_image(rgb, 56), ("the cat", "the dog", "red"))
    (plain,) = Engine(checkpoint, TOKENS).answer([sample])
    assert isinstance(checkpoint.model.mask_projector[2], torch.nn.Linear)  # as it was
    folding = DecodeSettings(max_new_tokens=24, folded_projector=True)
    (folded,) = Engine(checkpoint, folding).answer([sample])
    assert isinstance(checkpoint.model.mask_projector[2], torch.nn.Identity)
    assert [answer.token_ids for answer in plain] == [answer.token_ids for answer in folded]
    targets = [
        (a, b)
        for p, f in zip(plain, folded, strict=True)
        for a, b in zip(p.targets, f.targets, strict=True)
    ]
    assert targets
    for one, other in targets:
        assert (one.mask != other.mask).mean() < 1e-3
