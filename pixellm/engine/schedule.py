"""Who waits, who is under way, and who must make room: memory decides, not a count.

Rows and pictures under way have slots 0, 1, 2, ... of `Slots`; when some end, the last ones take
their places.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pixellm.engine.memory import Limits
from pixellm.engine.rows import Picture, Row
from pixellm.engine.slots import Moves, Slots

T = TypeVar("T")

HEADROOM = 32
"""Slots behind a question that an entering row is given room for: a short answer."""
ENTERING_TOKENS = 4096
"""Of questions that enter with one step, padding counted: their scores are its largest tensors."""
SHARE = 1 / 8
"""Of the rows under way, that enter, make room or get their masks together: one by one, the
pictures of new ones and the masks of ended ones would be made one by one, which is slow."""


@dataclass(frozen=True, slots=True)
class _Entering:
    """Rows that fit beside those that are under way."""

    rows: Sequence[Row]
    pictures: Sequence[Picture]
    """of these, the ones that nobody reads yet"""
    tokens: int
    """that all of them read with their first step, padding counted"""
    length: int
    """slots that the longest row needs, of all that would be under way"""


class Schedule:
    """Rows on their way through the engine."""

    def __init__(self, slots: Slots, limits: Limits) -> None:
        self.slots, self.limits = slots, limits
        self.most = limits.rows  # fewer after memory has run out
        self.waiting: deque[Row] = deque()
        self.rows: list[Row] = []
        self.pictures: list[Picture] = []
        self._tried: Row | None = None  # that memory was too small for though it was alone

    @property
    def busy(self) -> bool:
        """Whether a row waits or is under way."""
        return bool(self.waiting or self.rows)

    def enter(self) -> Sequence[Picture]:
        """Lets waiting rows in while memory allows, when they are enough to be worth a step.

        Returns:
            The pictures that came with them, with slots but nothing in them.
        """
        entering = self._choose()
        enough = len(entering.rows) >= SHARE * len(self.rows)
        if not entering.rows or not (enough or entering.tokens > ENTERING_TOKENS // 2):
            return ()
        for picture in entering.pictures:
            picture.slot = len(self.pictures)
            self.pictures.append(picture)
        for row in entering.rows:
            self.waiting.popleft()
            row.picture.readers += 1
            self.rows.append(row)
        self._make_room(entering.length)
        self.slots.wipe(slice(len(self.rows) - len(entering.rows), len(self.rows)))
        return entering.pictures

    def make_room(self, length: int) -> bool:
        """Makes room for rows of so many slots.

        Returns:
            False when there was none: some rows went back to wait, so ask again.
        """
        if len(self.rows) > 1 and not self._fits(len(self.pictures), len(self.rows), length):
            most = len(self.rows) - 1  # one stays, and gets on
            self.evict(self.rows[-min(most, max(1, int(SHARE * len(self.rows)))) :])
            return False
        self._make_room(length)
        return True

    def make_way(self, all_free: bool) -> Row | None:
        """After memory has run out: all begin again, half as many at once.

        Args:
            all_free: whether nothing of rows that have ended took any of the memory.

        Returns:
            A row that was alone for the second time, and is asked no more; else None.
        """
        count, tried = len(self.rows), self._tried
        self._tried = self.rows[0] if count == 1 else None
        self.restart()
        self.most = max(1, count // 2)
        if self._tried is None or self._tried is not tried or not all_free:
            return None
        self._tried = None
        return self.waiting.popleft()

    def evict(self, rows: Collection[Row]) -> None:
        """Sends rows back to the head of the line; what they have said so far they keep."""
        for row in rows:
            row.read = 0
        self.waiting.extendleft(reversed(list(rows)))
        self._take_out(rows)

    def restart(self) -> None:
        """Sends all back to wait and lets the memory go; what lies in the slots may be anything."""
        for row in self.rows:
            row.read = 0
        for picture in self.pictures:
            picture.readers, picture.slot = 0, None
        self.waiting.extendleft(reversed(self.rows))
        self.rows, self.pictures = [], []
        self.slots.let_go()

    def clear(self) -> None:
        """Forgets all that is under way or waits."""
        self.restart()
        self.waiting.clear()
        self._tried = None

    def withdraw(self, rows: Collection[Row]) -> None:
        """Takes out rows that nobody wants answered any more, under way or waiting."""
        gone = set(rows)
        self.waiting = deque(row for row in self.waiting if row not in gone)
        self._tried = None if self._tried in gone else self._tried
        self._take_out(rows)

    def leave(self, rows: Collection[Row]) -> None:
        """Takes out rows that have ended."""
        # the next one may be about the picture of the last
        self._take_out(rows, self.waiting[0].picture if self.waiting else None)
        # after memory has run out, one more may try for each that many have ended
        self.most = min(self.limits.rows, self.most + len(rows) / self.most)
        self._tried = None  # whoever is left has got on

    def awaited(self, most: int) -> list[Picture]:
        """The pictures that the next rows wait about, at most so many."""
        pictures = dict[Picture, None]()
        for row in self.waiting:
            pictures[row.picture] = None
            if len(pictures) == most:
                break
        return list(pictures)

    def _choose(self) -> _Entering:
        """As many waiting rows as fit, in their order; the first one always fits when alone."""
        rows, pictures = list[Row](), dict[Picture, None]()
        length, longest = max((row.length for row in self.rows), default=0), 0
        for row in self.waiting:
            new = {} if row.picture.slot is not None else {row.picture: None}
            count = len(self.rows) + len(rows) + 1
            if count > 1 and not (
                count <= self.most
                and max(longest, row.length) * (len(rows) + 1) <= ENTERING_TOKENS
                and self._fits(
                    len(self.pictures) + len(pictures) + len(new.keys() - pictures.keys()),
                    count,
                    self._expect(max(length, row.length + HEADROOM)),
                )
            ):
                break
            rows.append(row)
            pictures.update(new)
            length, longest = max(length, row.length + HEADROOM), max(longest, row.length)
        return _Entering(rows, list(pictures), longest * len(rows), length)

    def _take_out(self, rows: Collection[Row], but: Picture | None = None) -> None:
        """Takes rows out, and pictures that nobody reads any more but one; the last ones move up.

        What lies in the slots moves last: where memory runs out over that, it is known all the same
        who is under way, and `restart` begins with them anew.
        """
        gone = set(rows)
        for row in self.rows:
            row.picture.readers -= row in gone
        self.rows, of_rows = _close_up(self.rows, [row not in gone for row in self.rows])
        for picture in self.pictures:
            picture.slot = None
        stay = [picture.readers > 0 or picture is but for picture in self.pictures]
        self.pictures, of_pictures = _close_up(self.pictures, stay)
        for slot, picture in enumerate(self.pictures):
            picture.slot = slot
        self.slots.move_rows(of_rows)
        self.slots.move_pictures(of_pictures)

    def _make_room(self, length: int) -> None:
        size = len(self.pictures), len(self.rows), length
        self.slots.make_room(*size, limit=self.limits.slot_bytes)

    def _expect(self, length: int) -> int:
        """Slots that rows will need, of which the longest needs so many now.

        As many as there are: whoever fills memory with short rows has to put all of it together
        anew for each that grows long. Where half would do, what is there was for one of a kind.
        """
        return max(length, self.slots.length) if 2 * length > self.slots.length else length

    def _fits(self, pictures: int, rows: int, length: int) -> bool:
        return self.slots.bytes_for(pictures, rows, length) <= self.limits.slot_bytes


def _close_up(things: Sequence[T], stay: Sequence[bool]) -> tuple[list[T], Moves]:
    """Fills the places of those that go with the last of those that stay."""
    count = sum(stay)
    holes = [at for at in range(count) if not stay[at]]
    movers = [at for at in range(count, len(things)) if stay[at]]
    closed = list(things[:count])
    for hole, mover in zip(holes, movers, strict=True):
        closed[hole] = things[mover]
    return closed, Moves(movers, holes)
