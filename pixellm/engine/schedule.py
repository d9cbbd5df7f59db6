"""Who waits, who is under way, and who must make room: memory decides, not a count.

Rows and pictures under way have slots 0, 1, 2, ... of `Slots`; when some end, the last ones take
their places.
"""

import os
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from pixellm.engine.rows import Picture, Row
from pixellm.engine.slots import Moves, Slots

GPU_SHARE = 0.6
"""Of a GPU's free memory, for keys and values; images, masks and steps need the rest."""
CPU_SHARE = 0.1
"""Of all memory of a machine, which other replicas share. Not of what is free: a machine that has
read much counts its file cache as taken."""
T = TypeVar("T")

HEADROOM = 32
"""Slots behind a question that an entering row is given room for: a short answer."""
ENTERING_TOKENS = 4096
"""Of questions that enter with one step, padding counted: their scores are its largest tensors."""
REFILL = 8
"""Rows enter when an eighth of the places is free: one by one, reading pictures would be slow."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine may use."""

    rows: int = 256
    """Most questions under way at once."""
    slot_bytes: int | None = None
    """Most memory for keys and values; None: no limit but that of `rows`."""

    @classmethod
    def of_device(cls, device: torch.device) -> "Limits":
        """A share of the memory of a device that a model has been loaded into."""
        if device.type == "cuda":
            return cls(slot_bytes=int(GPU_SHARE * torch.cuda.mem_get_info(device)[0]))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(slot_bytes=int(CPU_SHARE * memory))


class Schedule:
    """Rows on their way through the engine."""

    def __init__(self, slots: Slots, limits: Limits) -> None:
        self.slots, self.limits = slots, limits
        self.most = limits.rows  # less after memory has run out
        self.waiting: deque[Row] = deque()
        self.rows: list[Row] = []
        self.pictures: list[Picture] = []

    @property
    def busy(self) -> bool:
        """Whether a row waits or is under way."""
        return bool(self.waiting or self.rows)

    def enter(self) -> list[Picture]:
        """Lets waiting rows in while memory allows.

        Returns:
            The pictures that came with them, with slots but nothing in them.
        """
        if self.rows and len(self.rows) > self.most - max(1, self.most // REFILL):
            return []
        before = len(self.pictures)
        length = max((row.length for row in self.rows), default=0)
        entering = longest = 0
        while self.waiting and len(self.rows) < self.most:
            row = self.waiting[0]
            picture = row.picture
            length = max(length, row.length + HEADROOM)
            longest, entering = max(longest, row.length), entering + 1
            pictures = len(self.pictures) + (picture.slot is None)
            fits = self._fits(pictures, len(self.rows) + 1, length)
            if self.rows and not (fits and longest * entering <= ENTERING_TOKENS):
                break
            self.waiting.popleft()
            if picture.slot is None:
                picture.slot = len(self.pictures)
                self.pictures.append(picture)
            picture.rows += 1
            self.rows.append(row)
        self._make_room(length)
        return self.pictures[before:]

    def make_room(self, length: int) -> bool:
        """Makes room for rows of so many slots.

        Returns:
            False when there was none: some rows went back to wait, so ask again.
        """
        if len(self.rows) > 1 and not self._fits(len(self.pictures), len(self.rows), length):
            self.evict(self.rows[-max(1, len(self.rows) // REFILL) :])
            return False
        self._make_room(length)
        return True

    def evict(self, rows: Sequence[Row]) -> None:
        """Sends rows back to the head of the line; what they have said so far they keep."""
        self.leave(rows)
        for row in rows:
            row.read = 0
        self.waiting.extendleft(reversed(rows))

    def restart(self) -> None:
        """Sends all back to wait and lets the memory go; what lies in the slots may be anything."""
        for row in self.rows:
            row.read, row.picture.rows, row.picture.slot = 0, 0, None
        self.waiting.extendleft(reversed(self.rows))
        self.rows, self.pictures = [], []
        self.slots.let_go()

    def leave(self, rows: Iterable[Row]) -> None:
        """Takes rows out, and pictures that nobody reads any more; the last ones move up."""
        gone = set(map(id, rows))
        for row in self.rows:
            row.picture.rows -= id(row) in gone
        self.rows, moves = _close_up(self.rows, [id(row) not in gone for row in self.rows])
        self.slots.move_rows(moves)
        unread = [picture for picture in self.pictures if not picture.rows]
        stay = [picture.rows > 0 for picture in self.pictures]
        self.pictures, moves = _close_up(self.pictures, stay)
        self.slots.move_pictures(moves)
        for picture in unread:
            picture.slot = None
        for slot, picture in enumerate(self.pictures):
            picture.slot = slot

    def _make_room(self, length: int) -> None:
        size = len(self.pictures), len(self.rows), length
        self.slots.make_room(*size, limit=self.limits.slot_bytes)

    def _fits(self, pictures: int, rows: int, length: int) -> bool:
        limit = self.limits.slot_bytes
        return limit is None or self.slots.bytes_for(pictures, rows, length) <= limit


def _close_up(things: Sequence[T], stay: Sequence[bool]) -> tuple[list[T], Moves]:
    """Fills the places of those that go with the last of those that stay."""
    count = sum(stay)
    holes = [at for at in range(count) if not stay[at]]
    movers = [at for at in range(count, len(things)) if stay[at]]
    closed = list(things[:count])
    for hole, mover in zip(holes, movers, strict=True):
        closed[hole] = things[mover]
    return closed, Moves(movers, holes)
