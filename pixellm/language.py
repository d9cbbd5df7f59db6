"""The language model: a LLaMA that reads an image between the words of its prompt.

Shapes: R rows (image, question pairs), L ids of a prompt, I image tokens, T = L - 1 + I positions,
H width, V vocabulary.
"""

from typing import Unpack

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, LlamaModel
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    LlamaRMSNorm,
    eager_attention_forward,
)
from transformers.utils.generic import TransformersKwargs

from pixellm.config import PixelLMConfig
from pixellm.kernel_choice import kernels_fit
from pixellm.tokenizer import IMAGE_TOKEN_INDEX


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
    ) -> Tensor:
        """Final hidden states, after the last norm.

        Args:
            embeds: (R, Q, H) of the new slots.
            keys: (R, P + Q), 1 for slots that may be attended to; P slots are cached already.
            cache: extended in place when given.

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
        )
        return out.last_hidden_state

    def step(self, ids: Tensor, positions: Tensor, plan: object) -> Tensor:
        """Final hidden states of tokens of many rows, which lie behind one another.

        Args:
            ids: (1, T).
            positions: (1, T).
            plan: of the engine, for its attention (`pixellm.engine.attention.StepPlan`).

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


class RotatingAttention(LlamaAttention):
    """LLaMA's attention with its rotation in one kernel, where there is one and nothing learns.

    What transformers calls for it is a function of its module, which can't be replaced here alone:
    so these lines stand here once more.
    """

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **named: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor]:
        """As LlamaAttention's."""
        device, dtype = hidden_states.device, hidden_states.dtype
        if torch.is_grad_enabled() or not kernels_fit(device, self.head_dim, dtype):
            return super().forward(
                hidden_states, position_embeddings, attention_mask, past_key_values, **named
            )
        from pixellm.kernels import rotate_  # needs Triton

        assert position_embeddings is not None, "LlamaModel makes them"
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape)
        key = self.k_proj(hidden_states).view(shape)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        for each in (query, key):
            rotate_(each, *position_embeddings)
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = AttentionInterface().get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        out, weights = attend(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **named
        )
        return self.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), weights


class GatedMLP(LlamaMLP):
    """LLaMA's MLP with its gate in one kernel, where there is one and nothing learns."""

    def forward(self, x: Tensor) -> Tensor:
        """As LlamaMLP's."""
        if torch.is_grad_enabled() or not kernels_fit(x.device):
            return super().forward(x)  # type: ignore[no-untyped-call]
        from pixellm.kernels import gate_  # needs Triton

        gate = self.gate_proj(x)
        gate_(gate, self.up_proj(x))
        return self.down_proj(gate)


def _use_kernels(model: LlamaModel) -> None:
    """Puts layers in the place of those of transformers; weights and names stay."""
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
