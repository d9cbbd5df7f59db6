"""Long lists in little memory: the plan of a large run, in its driver and in each replica."""

import os
import pickle
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import islice
from typing import TypeVar, overload

import numpy as np

T = TypeVar("T")
BLOCK = 128
"""Items that are packed together: for one of them, all are unpacked."""


class Packed(Sequence[T]):
    """A list that does not change, as compressed pickles: 25 to 65 bytes for a shard, and not 400.

    Made for items that are read one after the other; each reading makes new ones.

    Args:
        items: read once, and not kept.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._blocks, self._length = list[bytes](), 0
        self._open: tuple[int, list[T]] = (-1, [])  # the block that was read last, and its number
        source = iter(items)
        while block := list(islice(source, BLOCK)):
            self._blocks.append(zlib.compress(pickle.dumps(block), level=1))
            self._length += len(block)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for number in range(len(self._blocks)):
            yield from self._unpack(number)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...
    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(self._length))]
        number, place = divmod(range(self._length)[at], BLOCK)
        opened, items = self._open
        if opened != number:
            items = self._unpack(number)
            self._open = number, items
        return items[place]

    def _unpack(self, number: int) -> list[T]:
        items: list[T] = pickle.loads(zlib.decompress(self._blocks[number]))
        return items


class PackedSet(Set[str]):
    """Ids or names of files, in as many bytes each as the longest has: a `set` takes 130 for 20.

    Iterated in the order of their bytes. Does not change.

    Args:
        texts: read once. None ends with a zero byte, as no name of a file does; where bytes are no
            text, they are as `os.fsdecode` has them.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        blocks, source = [np.empty(0, "S1")], map(os.fsencode, texts)
        while block := list(islice(source, BLOCK)):
            blocks.append(np.array(block))
        texts = np.concatenate(blocks)
        texts.sort()  # in place: `np.unique` takes several times the memory
        first = np.ones(len(texts), bool)
        first[1:] = texts[1:] != texts[:-1]
        self._texts = texts if first.all() else texts[first]

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from map(os.fsdecode, self._texts[start : start + BLOCK].tolist())

    def __contains__(self, text: object) -> bool:
        try:
            return isinstance(text, str) and self.place(text) is not None
        except UnicodeEncodeError:  # half a surrogate pair, which no name has
            return False

    def place(self, text: str) -> int | None:
        """Where a text stands in their order; None when it isn't there."""
        sought = os.fsencode(text)
        at = bisect_left(self._texts, sought)
        return at if at < len(self) and self._texts[at] == sought else None


class Checklist:
    """Ids that are crossed off, one after the other.

    Args:
        ids: all of them.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._all = PackedSet(ids)
        self._crossed, self._left = bytearray(len(self._all)), len(self._all)

    def __len__(self) -> int:
        """How many are left."""
        return self._left

    def cross_off(self, text: str) -> bool:
        """Crosses one off; False when it isn't on the list any more, or never was."""
        at = self._all.place(text)
        if at is None or self._crossed[at]:
            return False
        self._crossed[at] = True
        self._left -= 1
        return True

    @property
    def crossed_off(self) -> Iterator[str]:
        """Those that are."""
        return (text for text, crossed in zip(self._all, self._crossed, strict=True) if crossed)
