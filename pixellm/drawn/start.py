"""Where training of a small PixelLM starts: its sizes and initial weights.

A small model that starts from the usual random weights spends most of a short training on finding
attention at all. So attention starts as a look-up of what is alike: queries equal keys, and what is
read is added unchanged.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from pixellm.config import DecoderSizes, PixelLMConfig
from pixellm.language import LanguageModel
from pixellm.model import PixelLM

SIDE, PATCH, LLM_GRID = 128, 8, 8
LAYERS, SHALLOW_LAYERS = 8, 5
"""Of the language model, and of the one that it grows from."""
ALIKE_GAIN = 1.2
"""Scale of queries and keys: a token's likeness to itself starts at about 3 before the softmax."""
NEAR_GAIN = 1.0
"""The same for heads that see distance: about 7 for the token itself, falling behind it."""
NEAR_PAIRS = (range(1, 5), range(3, 8))
"""Rotary pairs of the heads that see distance: the first looks back 3 tokens, the second 15."""
WORD_SCALE, SHARED = 0.5, 0.7
"""Size of word embeddings, and of the direction that all of them share."""
COPY_GAIN = 0.4
"""How much of what attention reads is added to the state."""


def small_config(vocabulary: int, *, hidden: int = 128, layers: int = LAYERS) -> PixelLMConfig:
    """The sizes of the shipped model."""
    return PixelLMConfig(
        llama={
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 32,
            "num_key_value_heads": hidden // 32,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-6,
            "vocab_size": vocabulary,
            "hidden_act": "silu",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        clip={
            "hidden_size": 128,
            "intermediate_size": 448,
            "num_hidden_layers": 7,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": PATCH,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        image_side=SIDE,
        decoder=DecoderSizes(width=64, mlp=256, scales=2),
        tokens_per_scale=3,
        feature_layers=(-2, -5),
        llm_grid=LLM_GRID,
        mask_side=4 * SIDE // PATCH,
        system_text="",
    )


def start_model(config: PixelLMConfig, seed: int) -> PixelLM:
    """A PixelLM with initial weights, the same for the same seed."""
    torch.manual_seed(seed)
    model = PixelLM(config)
    with torch.no_grad(), one_thread():
        start_vision(model)
        start_language(model)
    return model


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, tensors are computed by one thread, whatever the number is elsewhere.

    Sums of several threads differ in their last digits from those of one, so what must come out the
    same with any number of them is computed here; so is what is timed on one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def start_vision(model: PixelLM) -> None:
    """Patches start as their cosine transform, places as smooth waves."""
    embeddings = model.vision.clip.embeddings
    kernel = embeddings.patch_embedding.weight  # (C, 3, p, p)
    kernel.copy_(_cosine_filters(kernel.shape[0], kernel.shape[-1]))
    table = embeddings.position_embedding.weight  # (1 + P * P, C)
    table[1:] = 0.5 * _waves(model.config.grid, table.shape[1])


def _cosine_filters(count: int, side: int) -> Tensor:
    """The lowest frequencies of a 3-colour patch: (count, 3, side, side), orthonormal rows."""
    t = (torch.arange(side) + 0.5) / side
    basis = torch.stack([torch.cos(math.pi * k * t) for k in range(side)])
    basis = basis / basis.norm(dim=1, keepdim=True)
    colour = torch.linalg.qr(torch.tensor([[1.0, 1, 1], [1, -1, 0], [1, 1, -2]]).T)[0].T
    order = sorted(((i, j) for i in range(side) for j in range(side)), key=lambda p: p[0] + p[1])
    filters = [
        torch.einsum("c,y,x->cyx", colour[c], basis[i], basis[j])
        for i, j in order
        for c in range(3)
    ]
    return torch.stack(filters[:count]) if count <= len(filters) else _repeat(filters, count)


def _repeat(filters: list[Tensor], count: int) -> Tensor:
    return torch.stack([filters[index % len(filters)] for index in range(count)])


def _waves(grid: int, width: int) -> Tensor:
    """Sines and cosines of both coordinates: (grid * grid, width)."""
    quarter = width // 4
    rates = math.pi * (grid / 2) ** (torch.arange(quarter) / max(1, quarter - 1))
    t = (torch.arange(grid) + 0.5) / grid
    waves = torch.cat([(t[:, None] * rates).sin(), (t[:, None] * rates).cos()], dim=1)
    rows = waves[:, None].expand(-1, grid, -1)
    columns = waves[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=-1).reshape(grid * grid, -1)


def start_language(model: PixelLM) -> None:
    """Attention starts as "look up what is alike" and "look at what was just said".

    All words share one direction. Heads that compare only it, through turning rotary dimensions,
    see nothing but distance; heads that compare all else see likeness. What is read is added as
    it is.
    """
    llama = model.language.model
    width = llama.config.hidden_size
    shared = F.normalize(torch.randn(width), dim=0)
    words = WORD_SCALE * (
        torch.randn_like(llama.embed_tokens.weight) + SHARED * shared * width**0.5
    )
    llama.embed_tokens.weight.copy_(words)
    model.language.lm_head.weight.copy_(0.2 * (words - words.mean(0)))
    for layer in llama.layers:
        assert isinstance(layer, LlamaDecoderLayer)
        attention = layer.self_attn
        frame = torch.linalg.qr(torch.randn(width, width))[0]
        attention.v_proj.weight.copy_(frame)
        attention.o_proj.weight.copy_(COPY_GAIN * frame.T)
        heads = [
            _alike_head(shared, attention.head_dim) for _ in range(width // attention.head_dim)
        ]
        for index, pairs in enumerate(NEAR_PAIRS):
            heads[index] = _near_head(shared, attention.head_dim, pairs)
        attention.q_proj.weight.copy_(torch.cat(heads))
        attention.k_proj.weight.copy_(torch.cat(heads))
        nn.init.normal_(layer.mlp.gate_proj.weight, std=width**-0.5)
        nn.init.normal_(layer.mlp.up_proj.weight, std=width**-0.5)
        nn.init.normal_(layer.mlp.down_proj.weight, std=0.02)


def _alike_head(shared: Tensor, head: int) -> Tensor:
    """(head, width): random directions but the shared one, in slowly turning dimensions."""
    rows = torch.randn(head, len(shared)) * 0.02
    half = head // 2
    slow = torch.tensor([*range(half // 2, half), *range(half + half // 2, head)])
    frame = torch.randn(len(shared), len(slow))
    frame = torch.linalg.qr(frame - shared[:, None] * (shared @ frame))[0]
    rows[slow] = ALIKE_GAIN * frame.T
    return rows


def _near_head(shared: Tensor, head: int, pairs: range) -> Tensor:
    """(head, width): the shared direction alone, in rotary pairs that turn with distance."""
    rows = torch.randn(head, len(shared)) * 0.02
    for pair in pairs:
        rows[pair] = NEAR_GAIN * shared / len(pairs) ** 0.5
    return rows


def deepen(shallow: LanguageModel, deep: LanguageModel) -> None:
    """Copies a trained language model into a deeper one that computes the same.

    Layers in the middle are doubled; what a copy adds starts at zero (block expansion, LLaMA Pro,
    arXiv 2401.02415, section 3.2).
    """
    layers = list(shallow.model.layers)
    extra = len(deep.model.layers) - len(layers)
    first = (len(layers) - extra) // 2
    if first < 0 or extra < 0:
        raise ValueError(f"{len(layers)} layers can't grow to {len(deep.model.layers)}")
    deep.lm_head.load_state_dict(shallow.lm_head.state_dict())
    deep.model.embed_tokens.load_state_dict(shallow.model.embed_tokens.state_dict())
    deep.model.norm.load_state_dict(shallow.model.norm.state_dict())
    grown = iter(deep.model.layers)
    for index, layer in enumerate(layers):
        next(grown).load_state_dict(layer.state_dict())
        if first <= index < first + extra:
            copy = next(grown)
            assert isinstance(copy, LlamaDecoderLayer)
            copy.load_state_dict(layer.state_dict())
            nn.init.zeros_(copy.self_attn.o_proj.weight)
            nn.init.zeros_(copy.mlp.down_proj.weight)
