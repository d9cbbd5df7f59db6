"""The language model: a LLaMA that reads an image between the words of its prompt.

Shapes: R rows (image, question pairs), L ids of a prompt, I image tokens, T = L - 1 + I positions,
H width, V vocabulary.
"""

from inspect import unwrap
from types import FunctionType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import Cache, LlamaModel
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
)

from pixellm.config import PixelLMConfig
from pixellm.kernel_choice import kernels_fit
from pixellm.tokenizer import IMAGE_TOKEN_INDEX

if TYPE_CHECKING:  # the engine is built on this model
    from pixellm.engine.attention import StepPlan


class LanguageModel(nn.Module):
    """LlamaModel and its untied output layer."""

    def __init__(self, config: PixelLMConfig) -> None:
        super().__init__()
        llama = config.llama_config()
        self.model = LlamaModel(llama)
        _use_fused_norms(self.model)
        _use_kernels(self.model)
        self.lm_head = nn.Linear(llama.hidden_size, llama.vocab_size, bias=False)

    def embed(self, ids: Tensor) -> Tensor:
        """(R, L) ids -> (R, L, H)."""
        return self.model.embed_tokens(ids)

    def splice(self, ids: Tensor, image: Tensor) -> Tensor:
        """Puts each row's image where its id is IMAGE_TOKEN_INDEX.

        Args:
            ids: (R, L) with exactly one IMAGE_TOKEN_INDEX a row.
            image: (R, I, H).

        Returns:
            (R, T, H).
        """
        marked = ids == IMAGE_TOKEN_INDEX
        if not bool((marked.sum(1) == 1).all()):
            raise ValueError(f"each row needs exactly one image, got {marked.sum(1).tolist()}")
        words = self.embed(ids.masked_fill(marked, 0))
        rows = [
            torch.cat([row[:at], tokens, row[at + 1 :]])
            for row, tokens, at in zip(words, image, marked.int().argmax(1).tolist(), strict=True)
        ]
        return torch.stack(rows)

    def forward(
        self,
        embeds: Tensor,
        keys: Tensor,
        cache: Cache | None = None,
        keys_only: bool = False,
    ) -> Tensor:
        """Final hidden states, after the last norm.

        Args:
            embeds: (R, Q, H) of the new slots.
            keys: (R, P + Q), 1 for slots that may be attended to; P slots are cached already.
            cache: extended in place when given.
            keys_only: it is all about the cache, and what comes back is nothing: the last layer
                does no more than that takes.

        Returns:
            (R, Q, H).
        """
        first = keys.shape[1] - embeds.shape[1]
        positions = torch.arange(first, keys.shape[1], device=keys.device)[None]
        out = self.model(
            inputs_embeds=embeds,
            attention_mask=causal_bias(keys, embeds.shape[1], embeds.dtype),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            keys_only=keys_only,
        )
        return out.last_hidden_state

    def step(self, ids: Tensor, positions: Tensor, plan: "StepPlan") -> Tensor:
        """Final hidden states of tokens of many rows, which lie behind one another.

        Args:
            ids: (1, T).
            positions: (1, T).
            plan: of the engine, for its attention.

        Returns:
            (1, T, H).
        """
        embeds = self.embed(ids)
        mask = embeds.new_zeros(1, 1, 1, 1)  # transformers would make one; the plan has its own
        out = self.model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            plan=plan,
        )
        return out.last_hidden_state

    def depths(self, embeds: Tensor, keys: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """What goes into the first layer, and what comes out of each; the last is normalised.

        Args:
            embeds: (R, Q, H).
            keys: (R, Q), 1 for slots that may be attended to; or (R, Q, Q), 1 where a slot may
                look, for rows of several conversations.
            positions: (R, Q) long.

        Returns:
            (R, Q, H) each.
        """
        out = self.model(
            inputs_embeds=embeds,
            attention_mask=causal_bias(keys, embeds.shape[1], embeds.dtype),
            position_ids=positions,
            use_cache=False,
            output_hidden_states=True,
        )
        return out.hidden_states


def _use_fused_norms(model: LlamaModel) -> None:
    """Puts torch's norm, one kernel on a GPU, in the place of that of transformers, which is seven.

    The weights keep their names. In half precision, what is normalised is rounded once, not twice.
    """
    named = [(name, each) for name, each in model.named_modules() if isinstance(each, LlamaRMSNorm)]
    for name, norm in named:
        fused = nn.RMSNorm(norm.weight.shape[0], norm.variance_epsilon, device=norm.weight.device)
        model.set_submodule(name, fused.to(norm.weight.dtype))


def _rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Transformers' rotation, in one kernel where there is one and nothing learns.

    Args:
        query: (R, heads, T, d); the kernel turns it in place, as the key.
        key: (R, key-value heads, T, d).
        cos: (R or 1, T, d).
        sin: likewise.
    """
    if torch.is_grad_enabled() or not kernels_fit(query.device, query.shape[-1], query.dtype):
        return apply_rotary_pos_emb(query, key, cos, sin)
    from pixellm.kernels import rotate_  # needs Triton

    for each in (query, key):
        rotate_(each.transpose(1, 2), cos, sin)
    return query, key


_FORWARD = unwrap(LlamaAttention.forward)


class RotatingAttention(LlamaAttention):
    """LLaMA's attention with `_rotate` in it.

    Transformers looks the rotation up in its module, where putting another one would change every
    LLaMA of the process. So its code runs here with a name of its own for that one function.
    """

    forward = FunctionType(
        _FORWARD.__code__,
        {**_FORWARD.__globals__, apply_rotary_pos_emb.__name__: _rotate},
        _FORWARD.__name__,
        _FORWARD.__defaults__,
        _FORWARD.__closure__,
    )
    forward.__kwdefaults__ = _FORWARD.__kwdefaults__


class LastLayer(LlamaDecoderLayer):
    """The last layer, of which some want keys and values only."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Cache | None = None,
        keys_only: bool = False,
        **others: object,
    ) -> Tensor:
        """As LlamaDecoderLayer's; with `keys_only`, hidden_states come back as they are."""
        if not keys_only:
            others |= {"position_embeddings": position_embeddings}
            others |= {"past_key_values": past_key_values}
            return super().forward(hidden_states, **others)  # type: ignore[arg-type]
        own, states = self.self_attn, self.input_layernorm(hidden_states)
        heads = (*states.shape[:-1], -1, own.head_dim)
        key, value = (
            project(states).view(heads).transpose(1, 2) for project in (own.k_proj, own.v_proj)
        )
        _, key = _rotate(key[:, :0], key, *position_embeddings)  # no queries
        assert past_key_values is not None, "what else are they for"
        past_key_values.update(key, value, own.layer_idx)
        return hidden_states


class GatedMLP(LlamaMLP):
    """LLaMA's MLP with its gate in one kernel, where there is one and nothing learns."""

    def forward(self, x: Tensor) -> Tensor:
        """As LlamaMLP's."""
        if torch.is_grad_enabled() or not kernels_fit(x.device, dtype=x.dtype):
            return super().forward(x)  # type: ignore[no-untyped-call]
        from pixellm.kernels import gate_  # needs Triton

        gate = self.gate_proj(x)
        gate_(gate, self.up_proj(x))
        return self.down_proj(gate)


def _use_kernels(model: LlamaModel) -> None:
    """Puts layers in the place of those of transformers; weights and names stay."""
    model.layers[-1].__class__ = LastLayer
    for layer in model.layers:
        layer.self_attn.__class__ = RotatingAttention
        if model.config.hidden_act == "silu":
            layer.mlp.__class__ = GatedMLP


def causal_bias(keys: Tensor, queries: int, dtype: torch.dtype) -> Tensor:
    """(R, K) valid keys, or (R, Q, K) -> (R, 1, Q, K): 0 where a slot may look, else the least."""
    if keys.dim() == 2:
        slots = keys.shape[1]
        past = torch.ones(queries, slots, dtype=torch.bool, device=keys.device)
        keys = past.tril(slots - queries) & keys.bool()[:, None]
    return bias_of(keys, dtype)[:, None]


def bias_of(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0 where `seen` is not 0, else the least."""
    bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return bias.masked_fill(seen == 0, torch.finfo(dtype).min)
