import math

import pytest
import torch

from pixellm.config import DecoderSizes
from pixellm.decoder import FourierPositions, LayerNorm2d, PixelDecoder
from pixellm.two_way import Attention, TwoWayBlock

HIDDEN, GRID = 24, 4


@pytest.fixture(params=[1, 2, 3])
def decoder(request):
    torch.manual_seed(0)
    return PixelDecoder(HIDDEN, DecoderSizes(width=32, mlp=40, scales=request.param)).eval()


def maps_of(decoder, images=2):
    generator = torch.Generator().manual_seed(1)
    scales = len(decoder.transformer)
    features = [torch.randn(images, GRID**2, HIDDEN, generator=generator) for _ in range(scales)]
    return decoder.maps(features)


def test_the_first_scale_is_decoded_at_the_grid_and_later_ones_at_twice_of_it(decoder):
    queries = torch.randn(3, len(decoder.transformer), 32)
    with torch.no_grad():
        results = decoder(maps_of(decoder), queries, torch.tensor([0, 1, 1]))
    sides = [8, 16, 16][: len(results)]
    assert [tuple(one.logits.shape) for one in results] == [(3, 1, s, s) for s in sides]
    assert all(one.iou.shape == (3, 1) for one in results)


def test_targets_do_not_see_each_other(decoder):
    queries, image_of = torch.randn(3, len(decoder.transformer), 32), torch.tensor([0, 1, 0])
    with torch.no_grad():
        together = decoder(maps_of(decoder), queries, image_of)
        for row in range(3):
            alone = decoder(maps_of(decoder), queries[row : row + 1], image_of[row : row + 1])
            for one, other in zip(together, alone, strict=True):
                torch.testing.assert_close(one.logits[row], other.logits[0], rtol=1e-4, atol=1e-4)


def test_no_target_gives_no_mask_and_a_graph(decoder):
    queries = torch.empty(0, len(decoder.transformer), 32, requires_grad=True)
    results = decoder(maps_of(decoder), queries, torch.empty(0, dtype=torch.long))
    assert results[-1].logits.shape[0] == 0
    sum(one.logits.sum() for one in results).backward()
    assert decoder.level_embed.weight.grad is not None


def test_a_coarse_mask_weights_the_finer_features_and_gradient_flows_through_it():
    decoder = PixelDecoder(HIDDEN, DecoderSizes(width=32, mlp=40, scales=2))
    queries = torch.randn(1, 2, 32, requires_grad=True)
    fine = decoder(maps_of(decoder), queries, torch.tensor([0]))[1].logits
    fine.sum().backward()
    assert queries.grad[0, 0].abs().sum() > 0  # of the coarse query


def test_the_position_map_is_sams():
    positions = FourierPositions(8)
    matrix = positions.positional_encoding_gaussian_matrix
    where = positions(2, 4)
    assert where.shape == (1, 8, 2, 4)
    x, y = (3 + 0.5) / 4, (1 + 0.5) / 2
    angle = 2 * math.pi * (torch.tensor([2 * x - 1, 2 * y - 1]) @ matrix)
    torch.testing.assert_close(where[0, :, 1, 3], torch.cat([angle.sin(), angle.cos()]))


def test_pixels_are_normalised_over_their_channels():
    x = torch.randn(2, 6, 3, 3)
    out = LayerNorm2d(6)(x)
    expected = torch.nn.functional.layer_norm(x.permute(0, 2, 3, 1), (6,), eps=1e-6)
    torch.testing.assert_close(out, expected.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


def test_attention_is_softmax_of_scaled_products():
    attention = Attention(width=8, inner=4, heads=2)
    q, k, v = torch.randn(1, 3, 8), torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    parts = [
        layer(x).reshape(1, -1, 2, 2).transpose(1, 2)
        for layer, x in (
            (attention.q_proj, q),
            (attention.k_proj, k),
            (attention.v_proj, v),
        )
    ]
    weights = (parts[0] @ parts[1].transpose(2, 3) / 2**0.5).softmax(-1)
    expected = attention.out_proj((weights @ parts[2]).transpose(1, 2).reshape(1, 3, 4))
    torch.testing.assert_close(attention(q, k, v), expected)


def test_the_first_block_has_neither_residual_nor_positions_in_its_self_attention():
    tokens, image, where = torch.randn(1, 3, 16), torch.randn(1, 4, 16), torch.zeros(1, 4, 16)
    for first in (True, False):
        block = TwoWayBlock(16, 8, heads=2, first=first)
        seen = []
        block.norm1.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0]))
        block(tokens, image, torch.ones_like(tokens), where)
        query = tokens if first else tokens + 1
        attended = block.self_attn(query, query, tokens)
        torch.testing.assert_close(seen[0], attended if first else tokens + attended)
