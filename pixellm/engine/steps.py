"""One step of the language model: what each row reads next, laid out for attention.

Every row under way reads at least one token. Most read one; a row whose token group has begun reads
all of it, and one that enters its whole question. First come the first tokens of all rows, then the
other tokens of the rows that read more, padded to the longest: two or three parts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixellm.engine.attention import Part, StepPlan
from pixellm.engine.rows import Row
from pixellm.engine.slots import Slots

WIDTH = 16
"""Slots that attention looks at are a multiple: few shapes, little waste."""
PADDING = 2
"""Padded entries may be so many times the rows: reading a prefix once is worth it up to there."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A state that predicts an id of an answer."""

    token: int
    """index among the T tokens of the step"""
    row: Row
    index: int
    """of the id in the answer"""
    given: int
    """the id, if it is known that it must come there; else -1"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which tokens a step reads, as lists."""

    ids: list[int]
    """(T,)"""
    rows: list[int]
    """(T,)"""
    places: list[int]
    """(T,)"""
    members: list[tuple[list[int], int]]
    """of each part: its rows, and the tokens of each"""
    wanted: list[Wanted]
    read: list[int]
    """of each row: tokens that it has read after the step"""

    @property
    def length(self) -> int:
        """Slots that a row needs for it."""
        return max(self.places) + 1


def lay_out(rows: Sequence[Row]) -> Layout:
    """What all rows under way read next."""
    unread = [row.unread() for row in rows]
    layout = Layout([], [], [], [], [], [row.length for row in rows])
    everyone = list(range(len(rows)))
    _add_part(layout, rows, unread, everyone, 0, 1)
    more = [at for at in everyone if len(unread[at]) > 1]
    for entering in (False, True):
        members = [at for at in more if (rows[at].read == 0) is entering]
        if members:
            longest = max(len(unread[at]) for at in members)
            _add_part(layout, rows, unread, members, 1, longest)
    return layout


def _add_part(
    layout: Layout,
    rows: Sequence[Row],
    unread: Sequence[Sequence[int]],
    members: list[int],
    start: int,
    stop: int,
) -> None:
    layout.members.append((members, stop - start))
    for at in members:
        row = rows[at]
        predicts = row.read + 1 - len(row.question)  # the id that the state of token 0 predicts
        for offset in range(start, stop):
            real = offset < len(unread[at])
            index = predicts + offset
            if real and len(row.logprobs) <= index < row.budget:
                given = row.ids[index] if index < len(row.ids) else -1
                layout.wanted.append(Wanted(len(layout.ids), row, index, given))
            # padding is written to slots that the row has not come to yet, and never looked at
            layout.ids.append(unread[at][offset] if real else 0)
            layout.rows.append(at)
            layout.places.append(row.read + offset)


def plan_step(layout: Layout, slots: Slots, rows_under_way: Sequence[Row]) -> StepPlan:
    """A layout as the model needs it.

    Args:
        layout: of the step.
        slots: with room for it.
        rows_under_way: that it was made of.
    """
    device = slots.states.device
    ids, rows, places = torch.tensor([layout.ids, layout.rows, layout.places], device=device)
    picture_of = [row.picture.place for row in rows_under_way]
    size = min(-(-layout.length // WIDTH) * WIDTH, slots.length)
    seen = torch.arange(size, device=device) <= places[:, None]  # (T, S)
    bias = torch.zeros(seen.shape, dtype=slots.states.dtype, device=device)
    bias = bias.masked_fill(~seen, torch.finfo(bias.dtype).min)
    parts, start = list[Part](), 0
    for members, each in layout.members:
        tokens = slice(start, start + len(members) * each)
        start = tokens.stop
        pictures, entries, back = _gather(members, picture_of, device)
        parts.append(
            Part(
                tokens=tokens,
                # a slice is a view: only parts of some rows copy what they look at
                rows=slice(0, len(members))
                if len(members) == len(rows_under_way)
                else torch.tensor(members, device=device),
                count=len(members),
                pictures=pictures,
                entries=entries,
                places=back,
                bias=bias[tokens].view(len(members), 1, each, size),
            )
        )
    return StepPlan(slots, ids, rows, places, parts)


def _gather(
    members: Sequence[int], picture_of: Sequence[int], device: torch.device
) -> tuple[slice | Tensor, Tensor, Tensor]:
    """Which rows of a part read their prefix together: pictures, entries and places of a `Part`."""
    groups: dict[int, list[int]] = {}
    for at, member in enumerate(members):
        groups.setdefault(picture_of[member], []).append(at)
    width = _choose_width([len(group) for group in groups.values()])
    entries = [
        (picture, groups[picture][start : start + width])
        for picture in sorted(groups)
        for start in range(0, len(groups[picture]), width)
    ]
    back = [0] * len(members)
    for number, (_, group) in enumerate(entries):
        for place, at in enumerate(group):
            back[at] = number * width + place
    padded = [group + [0] * (width - len(group)) for _, group in entries]
    order = [picture for picture, _ in entries]
    pictures: slice | Tensor = slice(0, len(order))
    if order != list(range(len(order))):  # else a view will do, and nothing is copied
        pictures = torch.tensor(order, device=device)
    return pictures, torch.tensor(padded, device=device), torch.tensor(back, device=device)


def _choose_width(counts: Sequence[int]) -> int:
    """Rows that read a prefix together: as many as padding allows."""
    rows, sizes = sum(counts), Counter(counts)
    for width in sorted(sizes, reverse=True):
        entries = sum(number * -(-size // width) for size, number in sizes.items())
        if entries * width <= PADDING * rows:
            return width
    return 1
