"""Where keys and values lie: a picture's prefix once, a row's question and answer beside it.

A row is one question under way. What all questions of a picture begin with (system text and image
tokens) is kept per picture, what is a row's own per row. Tensors grow in few, large steps, so that
shapes stay few. Rows and pictures fill their slots from 0 without holes: who is under way is a
plain slice of each tensor. Attention then copies no prefix and nothing of the rows, where all
pictures have about as many rows; where they don't, and for the few rows that read more than one
token, it gathers what it looks at, unless a kernel does it all (`pixellm.engine.attention`).

Shapes: B pictures, R rows, P slots of the prefix, S slots of a row, h key-value heads, d width of a
head, H width of the language model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from pixellm.language import LanguageModel, bias_of

FEWEST = 8
"""Rows, pictures and slots that there is room for from the start."""


@dataclass(frozen=True, slots=True)
class Moves:
    """Slots that change places: what lies at `old` is copied to `new`."""

    old: Sequence[int]
    new: Sequence[int]


def round_up(count: int) -> int:
    """The next of 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ...: few sizes, at most a fifth spare."""
    step = max(2, 1 << max(0, count - 1).bit_length() >> 3)
    return max(FEWEST, -(-count // step) * step)


class Slots:
    """Keys and values of all that is under way."""

    def __init__(self, language: LanguageModel, prefix: int) -> None:
        config = language.model.config
        self.layers = int(config.num_hidden_layers)
        self.heads = int(config.num_key_value_heads or config.num_attention_heads)
        self.head_width = config.hidden_size // config.num_attention_heads
        self.groups = config.num_attention_heads // self.heads  # queries that share keys
        self.width = config.hidden_size
        like = language.lm_head.weight.new_empty(0)
        # per layer (B, h, P, d) and (R, h, S, d)
        shared, own = (0, self.heads, prefix, self.head_width), (0, self.heads, 0, self.head_width)
        self.prefix_keys = [like.new_zeros(shared) for _ in range(self.layers)]
        self.prefix_values = [like.new_zeros(shared) for _ in range(self.layers)]
        self.prefix_bias = like.new_zeros(0, prefix)  # (B, P): 0, or the least where padding lies
        self.keys = [like.new_zeros(own) for _ in range(self.layers)]
        self.values = [like.new_zeros(own) for _ in range(self.layers)]
        self.states = like.new_zeros(0, 0, self.width)  # (R, S, H): what each slot's token became
        self.version = 0  # of the tensors: another one after each change of size
        self._views: dict[str, list[tuple[Tensor, ...]]] = {}  # each slot of each tensor by itself

    @property
    def prefix(self) -> int:
        """P: slots of a picture, which is where a row's own positions begin."""
        return self.prefix_bias.shape[1]

    @property
    def pictures(self) -> int:
        """Pictures that there is room for."""
        return len(self.prefix_bias)

    @property
    def rows(self) -> int:
        """Rows that there is room for."""
        return self.states.shape[0]

    @property
    def length(self) -> int:
        """Slots of a row."""
        return self.states.shape[1]

    def bytes_for(self, pictures: int, rows: int, length: int) -> int:
        """Memory that room for so much takes."""
        size = self.states.element_size()
        token = 2 * self.layers * self.heads * self.head_width * size
        prefix = token * self.prefix_bias.shape[1]
        own = (token + self.width * size) * round_up(length)
        return round_up(pictures) * prefix + round_up(rows) * own

    def make_room(self, pictures: int, rows: int, length: int, limit: float = math.inf) -> None:
        """Room for at least so much; what is there stays.

        Args:
            pictures: under way.
            rows: under way.
            length: slots that the longest of them needs.
            limit: bytes; what isn't needed any more is only let go when all would take more.
        """
        pictures, rows, length = round_up(pictures), round_up(rows), round_up(length)
        held = self.pictures, self.rows, self.length
        least = pictures, rows, length
        most = [max(each) for each in zip(held, least, strict=True)]
        # of what is held now, as much as fits stays: no copies to and fro
        choices = product(*zip(most, least, strict=True))
        wanted = next((each for each in choices if self.bytes_for(*each) <= limit), least)
        if wanted != held:
            self._resize(*wanted)

    def wipe(self, rows: slice) -> None:
        """Empties the slots of rows: what isn't a number stays so, also times a weight of 0."""
        for each in (*self.keys, *self.values):
            each[rows] = 0

    def let_go(self) -> None:
        """Gives all memory back; nothing may be under way."""
        self._resize(0, 0, 0)

    def _resize(self, pictures: int, rows: int, length: int) -> None:
        self.version += 1
        self._views.clear()  # or they would hold what is replaced
        for each in (self.prefix_keys, self.prefix_values):  # a layer after the other: the old
            for layer, tensor in enumerate(each):  # and the new of all would not fit together
                each[layer] = _resized(tensor, (pictures, *tensor.shape[1:]))
        for each in (self.keys, self.values):
            for layer, tensor in enumerate(each):
                each[layer] = _resized(tensor, (rows, self.heads, length, self.head_width))
        self.prefix_bias = _resized(self.prefix_bias, (pictures, self.prefix))
        self.states = _resized(self.states, (rows, length, self.width))

    def write_prefixes(self, layer: int, pictures: Tensor, keys: Tensor, values: Tensor) -> None:
        """Keeps a layer's keys and values of whole prefixes.

        Args:
            layer: whose they are.
            pictures: (b,) long, where they go.
            keys: (b, h, P, d).
            values: (b, h, P, d).
        """
        self.prefix_keys[layer].index_copy_(0, pictures, keys)
        self.prefix_values[layer].index_copy_(0, pictures, values)

    def write_prefix_bias(self, pictures: Tensor, valid: Tensor) -> None:
        """Keeps where prefixes may be looked at: (b,), and (b, P) with 0 on padding."""
        self.prefix_bias.index_copy_(0, pictures, bias_of(valid, self.prefix_bias.dtype))

    def write(
        self, layer: int, owners: Tensor, places: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        """Keeps keys and values of tokens.

        Args:
            layer: whose they are.
            owners: (T,) long, the row of each token.
            places: (T,) long, the slot of each token in its row.
            keys: (T, h, d).
            values: (T, h, d).
        """
        self.keys[layer][owners, :, places] = keys
        self.values[layer][owners, :, places] = values

    def write_states(self, owners: Tensor, places: Tensor, states: Tensor) -> None:
        """Keeps what tokens became: (T,), (T,) and (T, H)."""
        self.states[owners, places] = states

    def move_rows(self, moves: Moves) -> None:
        """Rows that take the place of others that have ended."""
        self._move("rows", (*self.keys, *self.values, self.states), moves)

    def move_pictures(self, moves: Moves) -> None:
        """Pictures that take the place of others about which nothing is asked any more."""
        tensors = *self.prefix_keys, *self.prefix_values, self.prefix_bias
        self._move("pictures", tensors, moves)

    def _move(self, kind: str, tensors: Sequence[Tensor], moves: Moves) -> None:
        if not moves.old:
            return
        if kind not in self._views:  # to make a view takes longer than to copy one
            self._views[kind] = [tensor.unbind() for tensor in tensors]
        # few kernels for all layers, and no indices that would have to be sent
        views = self._views[kind]
        torch._foreach_copy_(
            [each[at] for each in views for at in moves.new],
            [each[at] for each in views for at in moves.old],
        )


def _resized(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tensor.shape == shape:
        return tensor
    resized = tensor.new_zeros(shape)
    both = tuple(slice(0, min(sides)) for sides in zip(tensor.shape, shape, strict=True))
    resized[both] = tensor[both]
    return resized
