"""One step of the language model: what each row reads next, laid out for attention.

Every row under way reads at least one token. Most read one; a row whose token group has begun reads
all of it, and one that enters its whole question. First come the first tokens of all rows, then the
other tokens of the rows that read more, padded to the longest: one to three parts.

Steps can be made alike: rows and groups are padded so that few shapes come up again and again, and
what was recorded once can be replayed (`pixellm.engine.replays`). A step in which rows enter is
like no other, and stays as it is.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixellm.engine.attention import Part, StepPlan, View
from pixellm.engine.rows import Row
from pixellm.engine.slots import Slots, round_up
from pixellm.language import bias_of
from pixellm.transfer import send

WIDTH = 16
"""Slots that attention looks at are a multiple: few shapes, little waste."""
WIDTH_ALIKE = 64
"""The same for steps that are made alike."""
GROUPS_ALIKE = 8
"""Rows that read the rest of a token group are a multiple in such a step."""
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
class Members:
    """The rows of a part, by their places among all under way, and what they read."""

    rows: Sequence[int]
    each: int
    """tokens of each"""
    everyone: bool
    """whether they are all rows under way, in order"""


@dataclass(slots=True, eq=False)
class Layout:
    """Which tokens a step reads, as lists that grow part by part."""

    ids: list[int]
    """(T,)"""
    owners: list[int]
    """(T,) the row of each"""
    places: list[int]
    """(T,) its slot in that row"""
    members: list[Members]
    """of each part"""
    wanted: list[Wanted]
    read: list[int]
    """of each row: tokens that it has read after the step"""
    alike: bool
    """whether it is padded so that others have its shape"""

    @property
    def length(self) -> int:
        """Slots that a row needs for it."""
        return max(self.places) + 1


def lay_out(rows: Sequence[Row], alike: bool = False) -> Layout:
    """What all rows under way read next.

    Args:
        rows: under way.
        alike: pad, unless a row enters.
    """
    unread = [row.unread() for row in rows]
    more = [at for at in range(len(rows)) if len(unread[at]) > 1]
    groups, entering = ([at for at in more if (rows[at].read == 0) is new] for new in (False, True))
    alike = alike and not entering
    layout = Layout([], [], [], [], [], [row.length for row in rows], alike)
    _add_part(layout, rows, unread, range(len(rows)), 0, 1)
    if alike:
        _add_spare(layout, round_up(len(rows)))
    for members in (groups, entering):
        if members:
            count = len(members) + (-len(members) % GROUPS_ALIKE if alike else 0)
            _add_part(layout, rows, unread, members, 1, max(len(unread[m]) for m in members), count)
    return layout


def _add_part(
    layout: Layout,
    rows: Sequence[Row],
    unread: Sequence[Sequence[int]],
    members: Sequence[int],
    start: int,
    stop: int,
    count: int = 0,
) -> None:
    """Tokens `start` to `stop` of some rows; the first row again until they are `count`."""
    padded = [*members, *[members[0]] * (count - len(members))]
    everyone = list(padded) == list(range(len(rows)))
    layout.members.append(Members(padded, stop - start, everyone))
    for number, at in enumerate(padded):
        row = rows[at]
        predicts = row.read + 1 - len(row.question)  # the id that the state of token 0 predicts
        for offset in range(start, stop):
            real = offset < len(unread[at])
            index = predicts + offset
            if real and number < len(members) and len(row.logprobs) <= index < row.most:
                given = row.ids[index] if index < len(row.ids) else -1
                layout.wanted.append(Wanted(len(layout.ids), row, index, given))
            # padding is written to slots that the row has not come to yet, and never looked at
            layout.ids.append(unread[at][offset] if real else 0)
            layout.owners.append(at)
            layout.places.append(row.read + offset)


def _add_spare(layout: Layout, count: int) -> None:
    """Makes the first part one of `count` rows; those that nobody has read a token for nobody."""
    (everyone,) = layout.members
    spare = range(len(everyone.rows), count)
    layout.members[0] = Members(range(count), 1, everyone=True)
    layout.ids.extend([0] * len(spare))
    layout.owners.extend(spare)
    layout.places.extend([0] * len(spare))


def plan_step(
    layout: Layout, slots: Slots, rows: Sequence[Row], by_kernel: bool = False
) -> StepPlan:
    """A layout as the model needs it.

    Args:
        layout: of the step.
        slots: with room for it.
        rows: under way, that it was made of.
        by_kernel: whether a kernel does its attention.
    """
    picture_of = [row.picture.place for row in rows]
    spare = max(len(layout.members[0].rows) - len(rows), 0)
    shared = [] if by_kernel else [_share(m, picture_of, layout.alike) for m in layout.members]
    lists: list[Sequence[int]] = [
        *(layout.ids, layout.owners, layout.places, [*picture_of, *[0] * spare]),
        *([each.token for each in layout.wanted], [each.given for each in layout.wanted]),
    ]
    for members, sharing in zip(layout.members, shared, strict=False):
        lists += [] if members.everyone else [members.rows]
        lists += [] if sharing.whole else [sharing.pictures]
        if not sharing.alone:
            lists += [[at for entry in sharing.entries for at in entry], sharing.seats]
    tensors = iter(to_device(lists, slots.states.device))
    ids, owners, places, pictures, wanted, given = (next(tensors) for _ in range(6))
    views = _make_views(layout, slots, places, shared, tensors) if shared else []
    parts, start = list[Part](), 0
    for number, members in enumerate(layout.members):
        count = len(members.rows)
        tokens = slice(start, start := start + count * members.each)
        parts.append(Part(tokens, count, members.each, views[number] if views else None))
    alike = layout.alike and all(sharing.alike for sharing in shared)
    return StepPlan(slots, ids, owners, places, pictures, parts, wanted, given, alike)


def _make_views(
    layout: Layout,
    slots: Slots,
    places: Tensor,
    shared: "Sequence[_Sharing]",
    tensors: Iterator[Tensor],
) -> list[View]:
    """What torch looks at for each part; its tensors come in the order of the parts."""
    bias, views, start = _make_bias(places, layout, slots), list[View](), 0
    for members, sharing in zip(layout.members, shared, strict=True):
        count, entries = len(members.rows), len(sharing.entries)
        tokens = slice(start, start := start + count * members.each)
        view = View(
            # a slice is a view: only parts of some rows copy what they look at
            rows=slice(0, count) if members.everyone else next(tensors),
            pictures=slice(0, entries) if sharing.whole else next(tensors),
            entries=None if sharing.alone else next(tensors).view(entries, -1),
            seats=None if sharing.alone else next(tensors),
            bias=bias[tokens].view(count, 1, members.each, -1),
        )
        views.append(view)
    return views


def to_device(lists: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
    """Numbers as tensors, all in one copy."""
    together = torch.tensor([number for numbers in lists for number in numbers])
    return list(send(together, device).split([len(numbers) for numbers in lists]))


def _make_bias(places: Tensor, layout: Layout, slots: Slots) -> Tensor:
    """(T, S): 0 where a token may look among its row's slots, else the least."""
    width = WIDTH_ALIKE if layout.alike else WIDTH
    size = min(-(-layout.length // width) * width, slots.length)
    seen = torch.arange(size, device=places.device) <= places[:, None]
    return bias_of(seen, slots.states.dtype)


@dataclass(frozen=True, slots=True)
class _Sharing:
    """Which rows of a part read their prefix together, as lists of a `View`."""

    pictures: list[int]
    """of each entry"""
    entries: list[list[int]]
    """rows of the part"""
    seats: list[int]
    """of each row among the entries"""
    alike: bool = False
    """whether other parts have these shapes too"""

    @property
    def alone(self) -> bool:
        """Whether entry i is row i."""
        return self.entries == [[at] for at in range(len(self.seats))]

    @property
    def whole(self) -> bool:
        """Whether the entries are those of the first pictures in order: a view, without a copy."""
        return self.pictures == list(range(len(self.pictures)))


def _share(members: Members, picture_of: Sequence[int], alike: bool) -> _Sharing:
    count = len(members.rows)
    if alike and not members.everyone:  # few rows: each for itself
        return _each_alone([picture_of[member] for member in members.rows])
    if alike and list(picture_of) == list(range(len(picture_of))):  # and so are the spare ones
        return _each_alone(range(count))
    groups: dict[int, list[int]] = {}
    for at, member in enumerate(members.rows):
        if member < len(picture_of):  # what is behind them is spare
            groups.setdefault(picture_of[member], []).append(at)
    if alike:
        width = 1 << (max(map(len, groups.values())) - 1).bit_length()
        entries = round_up(max(groups) + 1)
        if entries * width <= PADDING * count:
            every = [(picture, groups.get(picture, [])) for picture in range(entries)]
            return _enter(every, width, count, alike=True)
    width = _choose_width([len(group) for group in groups.values()])
    parts = [
        (picture, groups[picture][start : start + width])
        for picture in sorted(groups)
        for start in range(0, len(groups[picture]), width)
    ]
    return _enter(parts, width, count)


def _each_alone(pictures: Sequence[int]) -> _Sharing:
    every = range(len(pictures))
    return _Sharing(list(pictures), [[at] for at in every], list(every), alike=True)


def _enter(
    parts: Sequence[tuple[int, list[int]]], width: int, count: int, alike: bool = False
) -> _Sharing:
    """Entries of pictures, each with at most `width` of the part's `count` rows."""
    seats = [0] * count
    for number, (_, group) in enumerate(parts):
        for seat, at in enumerate(group):
            seats[at] = number * width + seat
    entries = [group + [0] * (width - len(group)) for _, group in parts]
    return _Sharing([picture for picture, _ in parts], entries, seats, alike)


def _choose_width(counts: Sequence[int]) -> int:
    """Rows that read a prefix together: as many as padding allows."""
    rows, sizes = sum(counts), Counter(counts)
    for width in sorted(sizes, reverse=True):
        entries = sum(number * -(-size // width) for size, number in sizes.items())
        if entries * width <= PADDING * rows:
            return width
    return 1
