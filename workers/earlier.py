"""Labels that an earlier plan has committed: what is unchanged is carried over, not asked again.

An image that is put into a folder changes the shard it falls into, but not the others of that
shard. The driver reads a few light columns of the parts that a changed input has left behind and
makes an index of 12 bytes a row; a worker looks its images up in it and reads the parts it hits.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from workers.errors import CommitError, ObjectMissing
from workers.labels.commits import Commit
from workers.labels.parts import read_rows
from workers.labels.rows import LABELLED, item_id_of
from workers.labels.schema import LabelRow
from workers.labels.table import read_part
from workers.records.instructions import Instruction
from workers.storage.objects import Store
from workers.storage.uris import join_uri

READERS = 16  # parts read at once by the driver
PARTS_AT_HAND = 16  # of a worker; 64 rows with three masks each are some 0.5 MB
_KEY_COLUMNS = ("status", "origin", "image_sha256", "instruction")


@dataclass(frozen=True, slots=True)
class EarlierPart:
    """A part as it was committed."""

    path: str
    """below the output"""
    sha256: str
    """of its bytes, in hex"""


@dataclass(frozen=True, slots=True)
class EarlierIndex:
    """Which part holds the labels of which image and instruction."""

    keys: npt.NDArray[np.uint64]
    """(rows,) ascending; equal keys keep the order of `parts`"""
    places: npt.NDArray[np.uint32]
    """(rows,) the number of the part"""
    parts: tuple[EarlierPart, ...]

    def part_of(self, key: int) -> EarlierPart | None:
        """The first part that may have a row of this key."""
        at = int(np.searchsorted(self.keys, np.uint64(key)))
        if at < len(self.keys) and int(self.keys[at]) == key:
            return self.parts[int(self.places[at])]
        return None


def index_earlier(store: Store, output: str, commits: Sequence[Commit]) -> EarlierIndex:
    """Indexes what earlier parts hold.

    Args:
        store: where the output lies.
        output: its prefix.
        commits: of one label fingerprint; of several rows for the same thing, the first counts.
    """
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(partial(_keys_of, store, output), commits))
    keys = np.concatenate([np.zeros(0, np.uint64), *found])
    numbers = [np.full(len(each), number, np.uint32) for number, each in enumerate(found)]
    places = np.concatenate([np.zeros(0, np.uint32), *numbers])
    order = np.argsort(keys, kind="stable")
    parts = tuple(EarlierPart(commit.part, commit.sha256) for commit in commits)
    return EarlierIndex(keys[order], places[order], parts)


class EarlierRows:
    """Looks labels up; thread-safe.

    Args:
        index: from `index_earlier`.
        store: where the output lies.
        output: its prefix.
    """

    def __init__(self, index: EarlierIndex, store: Store, output: str) -> None:
        self._index, self._store, self._output = index, store, output
        self._at_hand: OrderedDict[EarlierPart, dict[int, LabelRow]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, image_sha256: str, instruction: Instruction) -> LabelRow | None:
        """The row that answers this already, or None; it may hold other ids and places."""
        key = _key(image_sha256, instruction.text)
        part = self._index.part_of(key)
        row = self._rows(part).get(key) if part else None
        same = row is not None and (row.requested_classes or ()) == instruction.classes
        return row if same else None

    def _rows(self, part: EarlierPart) -> dict[int, LabelRow]:
        with self._lock:
            if part not in self._at_hand:
                self._at_hand[part] = self._read(part)
                while len(self._at_hand) > PARTS_AT_HAND:
                    self._at_hand.popitem(last=False)
            self._at_hand.move_to_end(part)
            return self._at_hand[part]

    def _read(self, part: EarlierPart) -> dict[int, LabelRow]:
        """Its rows; none where somebody removed it or wrote over it: then all is asked again."""
        with suppress(ObjectMissing, CommitError):
            data = self._store.get(join_uri(self._output, part.path))
            if sha256(data).hexdigest() == part.sha256:
                rows = _labelled(read_part(data))
                return {_key(row.image_sha256, row.instruction): row for row in rows}
        return {}


def _keys_of(store: Store, output: str, commit: Commit) -> npt.NDArray[np.uint64]:
    with suppress(ObjectMissing, CommitError):
        rows = _labelled(read_rows(store, output, [commit], _KEY_COLUMNS))
        keys = (_key(row.image_sha256, row.instruction) for row in rows)
        return np.fromiter(keys, dtype=np.uint64)
    return np.zeros(0, np.uint64)


def _labelled(rows: Iterable[LabelRow]) -> Iterable[LabelRow]:
    return (row for row in rows if row.status in LABELLED and row.origin == "model")


def _key(image_sha256: str, instruction: str) -> int:
    return int(item_id_of(image_sha256, instruction)[:16], 16)
