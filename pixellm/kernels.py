"""Kernels for GPUs, in Triton: what torch does in a dozen passes over memory, in one.

    rotate_       rotary position embeddings, in place
    gate_         the gate of LLaMA's MLP, in place
    keep          keys and values to their slots
    attend_rows   attention of rows that share their pictures' prefixes

They do what torch does elsewhere (transformers' `apply_rotary_pos_emb` and `LlamaMLP`,
`pixellm.engine.attention`) and round less often on the way. Triton launches on the current device:
that of the tensors is made so. It comes with torch's builds for CUDA; whether this module may be
imported says `pixellm.kernel_choice`.

Shapes: T tokens; R rows; B pictures, P slots of a prefix, S slots of a row; h key-value heads, g
query heads per key-value head, d width of a head.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

HEADS_AT_ONCE = 8
"""Heads of a token that a program rotates or keeps."""
NUMBERS_AT_ONCE = 4096
"""Numbers of an MLP that a program gates."""
FEWEST, MOST = 16, 64
"""Queries that a program answers: tensor cores take 16 at least."""
KEYS_AT_ONCE = 2**14
"""Bytes of keys that a program looks at together: it holds a few times as many at once, and GPUs
for desktops have 99 KB for that."""
STAGES = 2
"""Times that it holds them, so that the next ones come while it is at these."""
WARPS, WARPS_TOGETHER = 4, 2
"""Warps of a program that answers one row, and of one that answers several."""
LOG2_E = 1.4426950408889634
LEAST = tl.constexpr(-1e30)
"""The score of nothing: of infinities, one can't be subtracted from another."""


def rotate_(states: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turns the halves of each head by its token's angles, in place (RoFormer, section 3.4.2).

    Args:
        states: (B, T, heads, d), without holes.
        cos: (B, T, d), or (1, T, d) where all have the same; its halves alike.
        sin: likewise.
    """
    batch, length, heads, width = states.shape
    assert all(each.is_contiguous() for each in (states, cos, sin)), "no holes"
    assert cos.shape == sin.shape, "of the same angles"
    assert cos.shape in ((batch, length, width), (1, length, width)), "an angle for each token"
    grid = (batch * length, triton.cdiv(heads, HEADS_AT_ONCE))
    with torch.cuda.device_of(states):
        _rotate[grid](
            states, cos, sin, len(cos) * length, heads, WIDTH=width, HEADS=HEADS_AT_ONCE
        )  # fmt: skip


def gate_(gate: Tensor, up: Tensor) -> None:
    """SiLU of the gate, times what it lets through; in place of the gate (GLU Variants, SwiGLU).

    Args:
        gate: without holes.
        up: as large.
    """
    assert all(each.is_contiguous() for each in (gate, up)), "no holes"
    assert gate.shape == up.shape, "as large"
    grid = (triton.cdiv(gate.numel(), NUMBERS_AT_ONCE),)
    with torch.cuda.device_of(gate):
        _gate[grid](gate, up, gate.numel(), NUMBERS=NUMBERS_AT_ONCE)


def keep(
    made: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], owners: Tensor, places: Tensor
) -> None:
    """Writes keys and values of tokens to the slots of their rows.

    Args:
        made: keys and values (T, h, d), without holes.
        own: keys and values (R, h, S, d), without holes; written.
        owners: (T,) long, the row of each token.
        places: (T,) long, its slot there.
    """
    assert all(each.is_contiguous() for each in (*made, *own)), "no holes"
    (tokens, heads, width), length = made[0].shape, own[0].shape[2]
    grid = (tokens, triton.cdiv(heads, HEADS_AT_ONCE))
    with torch.cuda.device_of(made[0]):
        _keep[grid](
            *made, *own, owners, places, heads, length, WIDTH=width, HEADS=HEADS_AT_ONCE
        )  # fmt: skip


def attend_rows(
    query: Tensor,
    out: Tensor,
    each: int,
    prefix: tuple[Tensor, Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    seats: tuple[Tensor, Tensor, Tensor],
    scaling: float,
    order: Tensor | None = None,
    together: int = 1,
) -> None:
    """Attention of some rows' tokens to their pictures' prefixes and their own slots.

    Args:
        query: (r * n, h * g, d), n tokens of each of r rows behind one another.
        out: (r * n, h * g, d), written.
        each: n.
        prefix: keys and values (B, h, P, d), and (B, P): 0 on slots that may be looked at; the
            first one may.
        own: keys and values (R, h, S, d).
        seats: of each token its row and its slot there (r * n,), and (R,) the picture of each row.
        scaling: of the scores.
        order: (r,) long, the rows of `query` one after the other; those of a picture that stand
            side by side read its prefix together. None: as they lie.
        together: rows that a program answers, a power of 2.
    """
    prefix_keys, prefix_values, bias = prefix
    keys, values = own
    owners, places, pictures = seats
    heads, width = keys.shape[1], keys.shape[3]
    groups = query.shape[1] // heads
    assert groups * together <= MOST, "a program answers all heads of a token that share keys"
    at_once = min(MOST, max(FEWEST, triton.next_power_of_2(each * groups) * together))
    slots, rows = slots_at_once(width, keys.element_size()), query.shape[0] // each
    tokens = at_once // (groups * together)  # of each row, that a program answers
    grid = (triton.cdiv(rows, together), heads, triton.cdiv(each, tokens))
    with torch.cuda.device_of(query):
        _attend[grid](
            query, out,
            prefix_keys, prefix_values, bias,
            keys, values,
            owners, places, pictures, owners if order is None else order,
            scaling * LOG2_E,  # GPUs take powers of 2
            rows, each, bias.shape[1],
            query.stride(0), query.stride(1), out.stride(0), out.stride(1),
            prefix_keys.stride(0), prefix_keys.stride(1), keys.stride(0), keys.stride(1),
            GROUPS=groups, WIDTH=width, QUERIES=at_once, SLOTS=slots,
            TOGETHER=together, ORDERED=order is not None,
            num_stages=STAGES, num_warps=WARPS if together == 1 else WARPS_TOGETHER,
        )  # fmt: skip


def slots_at_once(width: int, size: int) -> int:
    """Slots that a program looks at together, of keys of so many numbers of so many bytes."""
    return max(FEWEST, KEYS_AT_ONCE // (width * size))


@triton.jit(do_not_specialize=["angles"])
def _rotate(states, cos, sin, angles, heads, WIDTH: tl.constexpr, HEADS: tl.constexpr):
    token, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * HEADS
    head, half = first + tl.arange(0, HEADS)[:, None], tl.arange(0, WIDTH // 2)[None]
    there = head < heads
    at = states + (token * heads + head) * WIDTH + half
    left = tl.load(at, mask=there).to(tl.float32)
    right = tl.load(at + WIDTH // 2, mask=there).to(tl.float32)
    angle = (token % angles) * WIDTH + half
    c, s = tl.load(cos + angle).to(tl.float32), tl.load(sin + angle).to(tl.float32)
    tl.store(at, left * c - right * s, mask=there)
    tl.store(at + WIDTH // 2, right * c + left * s, mask=there)


@triton.jit
def _gate(gate, up, count, NUMBERS: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    there = at < count
    opened = tl.load(gate + at, mask=there).to(tl.float32)
    passed = tl.load(up + at, mask=there).to(tl.float32)
    tl.store(gate + at, opened * tl.sigmoid(opened) * passed, mask=there)


@triton.jit(
    do_not_specialize=["length"], do_not_specialize_on_alignment=["owners", "places"]
)  # fmt: skip
def _keep(
    key, value, keys, values, owners, places, heads, length,
    WIDTH: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    token, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * HEADS
    head, column = first + tl.arange(0, HEADS)[:, None], tl.arange(0, WIDTH)[None]
    there = head < heads
    at = (token * heads + head) * WIDTH + column
    to = (tl.load(owners + token) * heads + head) * length + tl.load(places + token)
    to = to * WIDTH + column
    tl.store(keys + to, tl.load(key + at, mask=there), mask=there)
    tl.store(values + to, tl.load(value + at, mask=there), mask=there)


# numbers that change from step to step would have it compiled anew for some of them
@triton.jit(
    do_not_specialize=["rows", "each"],
    do_not_specialize_on_alignment=["owners", "places", "pictures", "order"],
)
def _attend(
    query, out,
    prefix_keys, prefix_values, bias,
    keys, values,
    owners, places, pictures, order,
    scaling,
    rows, each, prefix,
    query_token, query_head, out_token, out_head,
    prefix_picture, prefix_head, own_row, own_head,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, SLOTS: tl.constexpr,
    TOGETHER: tl.constexpr, ORDERED: tl.constexpr,
):  # fmt: skip
    # the programs of a head come one after the other: those of one picture should find its prefix
    # in the GPU's cache
    first, head, block = tl.program_id(0) * TOGETHER, tl.program_id(1), tl.program_id(2)
    tokens = QUERIES // (GROUPS * TOGETHER)
    lane = tl.arange(0, QUERIES)
    member, group = lane // GROUPS // tokens, lane % GROUPS
    offset = block * tokens + lane // GROUPS % tokens
    there = (member < TOGETHER) & (offset < each) & (first + member < rows)
    row = first + member
    if ORDERED:
        row = tl.load(order + row, mask=there, other=0).to(tl.int32)
    owner = tl.load(owners + row * each, mask=there, other=0)
    picture = tl.load(pictures + owner)
    token = (row * each + offset).to(tl.int64)
    place = tl.load(places + token, mask=there, other=0)

    column, slot = tl.arange(0, WIDTH), tl.arange(0, SLOTS)
    at = token * query_token + (head * GROUPS + group) * query_head
    asked = tl.load(query + at[:, None] + column[None], mask=there[:, None], other=0.0)
    most = tl.full([QUERIES], LEAST, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    found = tl.zeros([QUERIES, WIDTH], tl.float32)

    # what the rows of a picture share: the first of them reads it for all
    for number in range(TOGETHER):
        seen = tl.max(tl.where(there & (member == number), picture, -1))  # -1: there is no such row
        asking = there & (picture == seen)
        known = tl.max(tl.where(asking & (member < number), 1, 0))
        base = seen * prefix_picture + head * prefix_head
        for start in range(0, tl.where((seen < 0) | (known > 0), 0, prefix), SLOTS):
            here = start + slot
            inside = here < prefix
            near = base + here[:, None] * WIDTH + column[None]
            key = tl.load(prefix_keys + near, mask=inside[:, None], other=0.0)
            value = tl.load(prefix_values + near, mask=inside[:, None], other=0.0)
            image = tl.load(bias + seen * prefix + here, mask=inside, other=-1.0) == 0
            visible = asking[:, None] & image[None]
            most, total, found = _look(
                asked, key, value, visible, asking, scaling, most, total, found
            )  # fmt: skip

    # what each has to itself
    for number in range(TOGETHER):
        asking = there & (member == number)
        length = tl.max(tl.where(asking, place, -1)) + 1
        base = tl.max(tl.where(asking, owner, 0)) * own_row + head * own_head
        for start in range(0, length, SLOTS):
            here = start + slot
            inside = here < length
            near = base + here[:, None] * WIDTH + column[None]
            key = tl.load(keys + near, mask=inside[:, None], other=0.0)
            value = tl.load(values + near, mask=inside[:, None], other=0.0)
            visible = asking[:, None] & (here[None] <= place[:, None])
            most, total, found = _look(
                asked, key, value, visible, asking, scaling, most, total, found
            )  # fmt: skip

    at = token * out_token + (head * GROUPS + group) * out_head
    found /= tl.where(there, total, 1.0)[:, None]
    tl.store(out + at[:, None] + column[None], found, mask=there[:, None])


@triton.jit
def _look(asked, key, value, visible, asking, scaling, most, total, found):
    """Softmax over slots that come bit by bit (FlashAttention, algorithm 1)."""
    score = tl.dot(asked, tl.trans(key), input_precision="ieee") * scaling
    score = tl.where(visible, score, -float("inf"))
    higher = tl.maximum(most, tl.max(score, 1))
    weight, shrink = tl.exp2(score - higher[:, None]), tl.exp2(most - higher)
    total = total * shrink + tl.sum(weight, 1)
    more = tl.dot(weight.to(value.dtype), value, found * shrink[:, None], input_precision="ieee")
    # others stay as they were, whatever lies here: 0 times what is no number is none
    return higher, total, tl.where(asking[:, None], more, found)
