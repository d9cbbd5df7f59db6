"""States of a training run, from which it goes on after it was stopped or killed at any moment.

    OUTPUT/_states/000001000/00000.safetensors   1 tensors, in pieces, not yet to be believed
    OUTPUT/_states/000001000.json                2 from now on the state counts

Killed before 2, the state before it is the newest. One whose pieces are damaged or gone is passed
over, and said so.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from torch import Tensor

from pixellm.weights import pack_tensors, unpack_tensors
from workers.errors import AccessDenied, CommitError, ObjectMissing
from workers.labels.commits import JsonFile
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown
from workers.wording import Say

STATES = "_states"
"""Folder of the output."""
PIECE_BYTES = 512 * 2**20
"""Of tensors that lie in one object: it is held in memory while it is written."""
KEPT = 2
"""Newest states that are kept: the last one, and one before it in case that is damaged."""
_MARKER = re.compile(r"([0-9]+)\.json")


@dataclass(frozen=True, slots=True)
class Marker(JsonFile):
    """A state that counts."""

    step: int
    pieces: list[str]
    """SHA-256 of each piece, in hex"""
    rest: dict[str, Any]
    """what isn't tensors: positions in the data, settings"""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A state as it was saved."""

    step: int
    tensors: Mapping[str, Tensor]
    rest: Mapping[str, Any]


class States:
    """The states in one output.

    Args:
        store: where the output lies.
        output: its prefix.
        say: is told what was passed over.
        folder: of the output.
        kept: how many are kept: the one that was saved last, and the newest of the others.
    """

    def __init__(
        self,
        store: Store,
        output: str,
        say: Say,
        folder: str = STATES,
        kept: int = KEPT,
    ) -> None:
        self._store, self._say, self._kept = store, say, kept
        self._folder = join_uri(output, folder)

    def save(self, step: int, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Keeps a state, and forgets old ones; one of the same step is written over.

        Raises:
            StorageError: it could not be written; the state before counts.
        """
        digests = []
        for number, piece in enumerate(_in_pieces(tensors)):
            data = pack_tensors(piece)
            self._store.put(self._piece_uri(step, number), data)
            digests.append(sha256(data).hexdigest())
        marker = Marker(step, digests, dict(rest))
        self._store.put(self._marker_uri(step), marker.to_json())
        others = [each for each in self.steps() if each != step]
        self._forget(others[self._kept - 1 :])

    def steps(self) -> list[int]:
        """Of all states that count, the newest first."""
        names = (info.uri.rpartition("/")[2] for info in self._store.list(self._folder))
        found = {int(each[1]) for name in names if (each := _MARKER.fullmatch(name))}
        return sorted(found, reverse=True)

    def newest(self) -> State | None:
        """The newest state that is whole; None where there is none."""
        return next((state for step in self.steps() if (state := self.read(step))), None)

    def read(self, step: int) -> State | None:
        """One state; None where it is damaged or gone, which is said."""
        try:
            return self._read(step)
        except (CommitError, ObjectMissing) as error:
            self._say(f"the state of step {step:,} is passed over: {error}")
            return None

    def notes(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """What isn't tensors of all states, the newest first; damaged ones are left out."""
        for step in self.steps():
            with suppress(CommitError, ObjectMissing):
                yield step, self._marker(step).rest

    def newest_rest(self) -> Mapping[str, Any]:
        """What isn't tensors of the newest state, without reading those; nothing without one."""
        newest = self.steps()[:1]
        return self._marker(newest[0]).rest if newest else {}

    def _read(self, step: int) -> State:
        marker = self._marker(step)
        tensors: dict[str, Tensor] = {}
        for number, digest in enumerate(marker.pieces):
            piece = self._piece_uri(step, number)
            data = self._store.get(piece)
            if sha256(data).hexdigest() != digest:
                raise CommitError(f"{shown(piece)} is not what was written")
            tensors |= unpack_tensors(data)
        return State(marker.step, tensors, marker.rest)

    def _forget(self, steps: Iterable[int]) -> None:
        for step in steps:
            with suppress(AccessDenied):  # then they stay; training needs no right to delete
                self._store.delete(self._marker_uri(step))
                for info in list(self._store.list(join_uri(self._folder, _name(step)))):
                    self._store.delete(info.uri)

    def _marker(self, step: int) -> Marker:
        uri = self._marker_uri(step)
        return Marker.from_json(self._store.get(uri), uri)

    def _marker_uri(self, step: int) -> str:
        return join_uri(self._folder, f"{_name(step)}.json")

    def _piece_uri(self, step: int, number: int) -> str:
        return join_uri(self._folder, _name(step), f"{number:05d}.safetensors")


def _name(step: int) -> str:
    return f"{step:09d}"


def _in_pieces(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    piece: dict[str, Tensor] = {}
    held = 0
    for name, tensor in sorted(tensors.items()):
        size = tensor.numel() * tensor.element_size()
        if piece and held + size > PIECE_BYTES:
            yield piece
            piece, held = {}, 0
        piece[name] = tensor.detach().cpu().contiguous()
        held += size
    yield piece
