"""Long lists in little memory: the plan of a large run, in its driver and in each replica."""

import pickle
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar, overload

T = TypeVar("T")
BLOCK = 128
"""Items that are packed together: for one of them, all are unpacked."""


class Packed(Sequence[T], Generic[T]):
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
