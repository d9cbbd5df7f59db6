"""One step of the language model: what each row reads next, laid out for attention.

Every row under way reads at least one token. Most read one; a row whose token group has begun reads
all of it, and one that enters its whole question. First come the first tokens of all rows, then the
other tokens of the rows that read more, padded to the longest: one to three parts, unless rows that
enter have a step of their own.

Steps can be made alike: rows, groups and questions are padded so that few shapes come up again and
again, and what was recorded once can be replayed (`pixellm.engine.replays`). Rows that enter read
their questions in a step of their own then, all of them in one part: apart, both kinds have few
shapes; together, each pair of them would be one more.

Shapes: T tokens of a step, S slots of a row that attention looks at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pixellm.engine.attention import Part, StepPlan, View
from pixellm.engine.replays import TOKENS_ALIKE
from pixellm.engine.rows import Row
from pixellm.engine.sharing import Sharing, share, stand_together
from pixellm.engine.slots import FEWEST, Slots, round_up
from pixellm.language import bias_of
from pixellm.transfer import send

WIDTH = 16
"""Slots that attention looks at are a multiple: few shapes, little waste."""
WIDTH_ALIKE = 64
"""The same for steps that are made alike."""
GROUPS_ALIKE = 8
"""Rows that read the rest of a token group are a multiple in such a step."""
LENGTH_ALIKE = 16
"""Tokens that each row reads are a multiple where rows enter."""


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
    """where one comes again, nothing is wanted of it"""
    each: int
    """tokens of each"""
    tokens: slice
    """where they lie among the T tokens, row after row"""
    everyone: bool
    """whether they are all rows under way, in order"""


@dataclass(slots=True, eq=False)
class Layout:
    """Which tokens a step reads, as lists that grow part by part."""

    rows: Sequence[Row]
    """that it brings on"""
    read: Sequence[int]
    """of each of them: tokens that it has read after the step"""
    alike: bool
    """whether it is padded so that others have its shape"""
    ids: list[int] = field(default_factory=list)
    """(T,)"""
    owners: list[int] = field(default_factory=list)
    """(T,) the row of each"""
    places: list[int] = field(default_factory=list)
    """(T,) its slot in that row"""
    members: list[Members] = field(default_factory=list)
    """of each part"""
    wanted: list[Wanted] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Slots that a row needs for it."""
        return max(self.places) + 1


def lay_out(rows: Sequence[Row], alike: bool = False) -> Layout:
    """What all rows under way read next.

    Args:
        rows: under way.
        alike: pad; none of them may enter.
    """
    unread = [row.unread() for row in rows]
    more = [at for at in range(len(rows)) if len(unread[at]) > 1]
    groups, entering = ([at for at in more if (rows[at].read == 0) is new] for new in (False, True))
    assert not (alike and entering), "they have a step of their own"
    layout = Layout(tuple(rows), [row.length for row in rows], alike)
    _add_part(layout, rows, unread, range(len(rows)), 0, 1)
    if alike:
        _add_spare(layout, round_up(len(rows)))
    for members in (groups, entering):
        if members:
            most = max(len(unread[at]) for at in members)
            count = len(members) + (-len(members) % GROUPS_ALIKE if alike else 0)
            _add_part(layout, rows, unread, _pad(members, count), 1, most)
    return layout


def lay_out_entering(rows: Sequence[Row], count: int, room: int) -> Layout:
    """What rows that enter read, in a step of their own; padded, where they are few.

    Args:
        rows: under way, those that enter last.
        count: of these.
        room: slots that a row has; padding takes no others.
    """
    members, new = range(len(rows) - count, len(rows)), tuple(rows[-count:])
    unread = [row.unread() if at in members else [] for at, row in enumerate(rows)]
    longest = max(len(unread[at]) for at in members)
    length = min(-(-longest // LENGTH_ALIKE) * LENGTH_ALIKE, room)
    # 1, 2, 4, 8, 10, 12, ...
    padded = round_up(count) if count > FEWEST else 1 << (count - 1).bit_length()
    alike = padded * length <= TOKENS_ALIKE
    if not alike:
        padded, length = count, longest
    layout = Layout(new, [row.length for row in new], alike)
    _add_part(layout, rows, unread, _pad(members, padded), 0, length)
    return layout


def _pad(members: Sequence[int], count: int) -> list[int]:
    """The first one again until they are so many."""
    return [*members, *[members[0]] * (count - len(members))]


def _add_part(
    layout: Layout,
    rows: Sequence[Row],
    unread: Sequence[Sequence[int]],
    members: Sequence[int],
    start: int,
    stop: int,
) -> None:
    """Tokens `start` to `stop` of some rows; of one that comes again, nothing is wanted."""
    everyone = list(members) == list(range(len(rows)))
    first, each, seen = len(layout.ids), stop - start, set[int]()
    tokens = slice(first, first + len(members) * each)
    layout.members.append(Members(members, each, tokens, everyone))
    for at in members:
        row, again = rows[at], at in seen
        seen.add(at)
        predicts = row.read + 1 - len(row.question)  # the id that the state of token 0 predicts
        for offset in range(start, stop):
            real = offset < len(unread[at])
            index = predicts + offset
            # a row that had to make room reads again what it has said: that is known
            if real and not again and len(row.logprobs) <= index < row.most:
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
    layout.members[0] = Members(range(count), 1, slice(0, count), everyone=True)
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
    picture_of, parts = [row.picture.place for row in rows], layout.members
    # how many rows there are is no part of a shape, but how many there is room for
    spare = slots.rows - len(rows) if layout.alike else 0
    shared = list[tuple[Members, Sharing]]()
    if not by_kernel:
        shared = [
            (each, share(each.rows, each.everyone, picture_of, layout.alike)) for each in parts
        ]
    lists: dict[str, Sequence[int]] = {
        "ids": layout.ids,
        "owners": layout.owners,
        "places": layout.places,
        "pictures": [*picture_of, *[0] * spare],
        "wanted": [each.token for each in layout.wanted],
        "given": [each.given for each in layout.wanted],
    }
    together = 1
    if by_kernel and parts[0].each == 1:  # of others each has programs enough of its own
        pictures = [lists["pictures"][at] for at in parts[0].rows]
        order, together = stand_together(pictures, slots.heads, slots.groups)
        if together > 1:
            lists["order"] = order
    own, *of_parts = to_device(
        [lists, *(_to_gather(*each) for each in shared)], slots.states.device
    )
    views = None
    if not by_kernel:
        views = _make_views(shared, of_parts, _make_bias(own["places"], layout, slots))
    return StepPlan(
        slots=slots,
        ids=own["ids"],
        owners=own["owners"],
        places=own["places"],
        pictures=own["pictures"],
        parts=[
            Part(parts[0].tokens, len(parts[0].rows), parts[0].each, own.get("order"), together),
            *(Part(each.tokens, len(each.rows), each.each) for each in parts[1:]),
        ],
        views=views,
        wanted=own["wanted"],
        given=own["given"],
        alike=layout.alike and all(sharing.alike for _, sharing in shared),
    )


def _make_views(
    shared: Sequence[tuple[Members, Sharing]],
    of_parts: Sequence[Mapping[str, Tensor]],
    bias: Tensor,
) -> list[View]:
    """What torch looks at for each part, of what `_to_gather` has named."""
    views = list[View]()
    for (members, sharing), sent in zip(shared, of_parts, strict=True):
        count, entries = len(members.rows), len(sharing.entries)
        together = sent.get("entries")
        view = View(
            # a slice is a view: only parts of some rows copy what they look at
            rows=sent.get("rows", slice(0, count)),
            pictures=sent.get("pictures", slice(0, entries)),
            entries=None if together is None else together.view(entries, -1),
            seats=sent.get("seats"),
            bias=bias[members.tokens].view(count, 1, members.each, -1),
        )
        views.append(view)
    return views


def to_device(
    lists: Sequence[Mapping[str, Sequence[int]]], device: torch.device
) -> list[dict[str, Tensor]]:
    """Numbers as tensors under the same names, all in one copy."""
    every = [numbers for named in lists for numbers in named.values()]
    together = torch.tensor([number for numbers in every for number in numbers])
    tensors = iter(send(together, device).split([len(numbers) for numbers in every]))
    return [{name: next(tensors) for name in named} for named in lists]


def _make_bias(places: Tensor, layout: Layout, slots: Slots) -> Tensor:
    """(T, S): 0 where a token may look among its row's slots, else the least."""
    width = WIDTH_ALIKE if layout.alike else WIDTH
    size = min(-(-layout.length // width) * width, slots.length)
    seen = torch.arange(size, device=places.device) <= places[:, None]
    return bias_of(seen, slots.states.dtype)


def _to_gather(members: Members, sharing: Sharing) -> dict[str, Sequence[int]]:
    """What attention must copy for a part, by lists; at everything else it looks in place."""
    lists: dict[str, Sequence[int]] = {}
    if not members.everyone:
        lists["rows"] = members.rows
    if sharing.pictures != list(range(len(sharing.pictures))):  # not the first ones, in order
        lists["pictures"] = sharing.pictures
    if sharing.entries != [[at] for at in range(len(sharing.seats))]:  # entry i isn't row i
        lists["entries"] = [at for entry in sharing.entries for at in entry]
        lists["seats"] = sharing.seats
    return lists
