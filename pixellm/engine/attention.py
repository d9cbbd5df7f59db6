"""Attention of rows that share their pictures' prefixes.

The tokens of a step lie behind one another, whatever rows they belong to: linear layers see no
padding. Only attention looks at rows. It takes them in parts of equal length, and lets all rows of
a picture read its prefix together where that pays, so that the prefix is read once per picture and
not per row ("cascade attention"). On a GPU kernels do all of it (`pixellm.kernels`): a few rows of
a picture stand together, and the others run side by side with them and find its prefix in the GPU's
cache.

Shapes: T tokens of a step; r rows of a part, n tokens of each; E entries of up to m rows that share
a picture; P slots of the prefix, S slots of a row; h key-value heads, g query heads per key-value
head, d width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pixellm.engine.slots import Slots
from pixellm.language import LanguageModel

NAME = "pixellm_rows"
"""What transformers knows this attention by."""


@dataclass(frozen=True, slots=True)
class View:
    """What torch looks at for the rows of a part; a kernel needs none of it."""

    rows: slice | Tensor
    """a slice, or (r,) long"""
    pictures: slice | Tensor
    """a slice of the pictures, or (E,) long: whose prefix each entry reads"""
    entries: Tensor | None
    """(E, m) long, rows of the part (0 to r - 1) that read together; padded with 0. None: each row
    is an entry, and nothing has to be gathered"""
    seats: Tensor | None
    """(r,) long: where each row stands in the flattened entries; None with them"""
    bias: Tensor
    """(r, 1, n, S): 0 where a token may look among its row's slots, else the least"""

    @property
    def shape(self) -> object:
        """Views of the same shape differ in what their tensors hold only."""
        slices = [
            each.stop if isinstance(each, slice) else None for each in (self.rows, self.pictures)
        ]
        return (*slices, *(tensor.shape for tensor in self.tensors))

    @property
    def tensors(self) -> list[Tensor]:
        """What is read of it."""
        indices = (self.rows, self.pictures, self.entries, self.seats)
        return [*(each for each in indices if isinstance(each, Tensor)), self.bias]


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of some rows of a step, the same number from each."""

    tokens: slice
    """where they lie among the T tokens, row after row"""
    count: int
    """r"""
    each: int
    """n"""
    order: Tensor | None = None
    """(r,) long: its rows as a kernel takes them; None: as they lie"""
    together: int = 1
    """rows that a kernel takes together, so that those of a picture read its prefix once"""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A step as the model needs it: what it reads, and where attention looks."""

    slots: Slots
    ids: Tensor
    """(T,) long: what is read"""
    owners: Tensor
    """(T,) long: the row of each token"""
    places: Tensor
    """(T,) long: the slot of each token in its row"""
    pictures: Tensor
    """(R,) long: the slot of each row's picture; where steps are alike, of all there is room for"""
    parts: Sequence[Part]
    views: Sequence[View] | None
    """of the parts; None: a kernel looks at their rows"""
    wanted: Tensor
    """(N,) long: tokens whose states predict an id"""
    given: Tensor
    """(N,) long: what they predict, if that is known; else -1"""
    alike: bool = False
    """whether other steps have its shape"""

    @property
    def shape(self) -> object:
        """Plans of the same shape differ in what their tensors hold only."""
        parts = ((part.count, part.each, part.together) for part in self.parts)
        views = (view.shape for view in self.views or ())
        return (*parts, *views, *(tensor.shape for tensor in self.tensors))

    @property
    def tensors(self) -> list[Tensor]:
        """What a step reads of it; those of plans of one shape match one by one."""
        own = [self.ids, self.owners, self.places, self.pictures]
        own += [part.order for part in self.parts if part.order is not None]
        return own + [tensor for view in self.views or () for tensor in view.tensors]

    def run(self, language: LanguageModel) -> Tensor:
        """The (T, H) states of its tokens; their keys and values go into the slots."""
        positions = self.places + self.slots.prefix
        return language.step(self.ids[None], positions[None], self)[0]


def rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    plan: StepPlan | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The attention of a LlamaModel, as transformers calls it; plain unless there is a plan.

    Args:
        module: the layer.
        query: (1, h * g, T, d).
        key: (1, h, T, d), of the step's own tokens.
        value: (1, h, T, d).
        attention_mask: of the plain attention.
        scaling: of the scores.
        dropout: of the plain attention.
        plan: of the step.
        _: what transformers tells other attentions.

    Returns:
        (1, T, h * g, d), and None.
    """
    if plan is None:
        plain = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling
        )
        return plain[0], None
    layer, slots = int(module.layer_idx), plan.slots  # type: ignore[arg-type]
    asked, *made = (each[0].transpose(0, 1) for each in (query, key, value))  # (T, heads, d)
    if plan.views is None:
        return _attend_by_kernel(asked, (made[0], made[1]), plan, layer, scaling)[None], None
    slots.write(layer, plan.owners, plan.places, *made)
    asked = asked * scaling
    out = [
        _attend(asked[part.tokens], part, view, slots, layer)
        for part, view in zip(plan.parts, plan.views, strict=True)
    ]
    return torch.cat(out)[None], None


def _attend_by_kernel(
    query: Tensor, made: tuple[Tensor, Tensor], plan: StepPlan, layer: int, scaling: float
) -> Tensor:
    """(T, h * g, d) queries, (T, h, d) keys and values -> (T, h * g, d)."""
    from pixellm.kernels import attend_rows, keep  # needs Triton

    slots, out = plan.slots, torch.empty_like(query)
    keep(made, (slots.keys[layer], slots.values[layer]), plan.owners, plan.places)
    for part in plan.parts:
        attend_rows(
            query[part.tokens],
            out[part.tokens],
            part.each,
            (slots.prefix_keys[layer], slots.prefix_values[layer], slots.prefix_bias),
            (slots.keys[layer], slots.values[layer]),
            (plan.owners[part.tokens], plan.places[part.tokens], plan.pictures),
            scaling,
            part.order,
            part.together,
        )
    return out


def _attend(query: Tensor, part: Part, view: View, slots: Slots, layer: int) -> Tensor:
    """(r * n, h * g, d) queries -> (r * n, h * g, d)."""
    heads, width = slots.heads, slots.head_width
    r, n, groups = part.count, part.each, query.shape[1] // heads
    # (r, h, g * n, d): query heads of one key-value head are like more tokens
    query = query.view(r, n, heads, groups, width).permute(0, 2, 3, 1, 4)
    query = query.reshape(r, heads, groups * n, width)

    # what the rows of a picture read together: (E, h, m * g * n, d) against (E, h, P, d)
    joined = _together(query, view.entries)
    shared = joined @ slots.prefix_keys[layer][view.pictures].transpose(-1, -2)
    shared = shared + slots.prefix_bias[view.pictures][:, None, None]
    shared = _per_row(shared, view)  # (r, h, g * n, P)

    # what each reads alone: (r, h, g * n, S)
    size = view.bias.shape[-1]
    own = query @ slots.keys[layer][view.rows, :, :size].transpose(-1, -2)
    own = (own.view(r, heads, groups, n, size) + view.bias[:, :, None]).flatten(2, 3)

    scores = torch.cat([shared, own], dim=-1)
    weights = scores.softmax(-1)  # in single precision, whatever goes in and comes out
    there, here = weights.split([shared.shape[-1], size], dim=-1)
    out = _together(there, view.entries) @ slots.prefix_values[layer][view.pictures]
    out = _per_row(out, view) + here @ slots.values[layer][view.rows, :, :size]
    out = out.view(r, heads, groups, n, width).permute(0, 3, 1, 2, 4)
    return out.reshape(r * n, heads * groups, width)


def _together(each: Tensor, entries: Tensor | None) -> Tensor:
    """(r, h, x, y) of rows -> (E, h, m * x, y) of entries."""
    return each if entries is None else each[entries].transpose(1, 2).flatten(2, 3)


def _per_row(joined: Tensor, view: View) -> Tensor:
    """(E, h, m * x, y) of entries -> (r, h, x, y) of rows."""
    if view.entries is None:
        return joined
    split = joined.unflatten(2, (view.entries.shape[1], -1)).transpose(1, 2)
    return split.flatten(0, 1)[view.seats]


AttentionInterface.register(NAME, rows_attention)
