"""Rows of two label tables -> the pairs that are about the same item, without holding a table.

    gold parts         -> entries, by bucket -> set aside -+
      their keys                                           +-> one bucket: pairs of entries
    predicted parts    -> entries, by bucket -> set aside -+
      (only of items that are in gold)

A bucket has all rows of the images whose SHA-256 falls into it, so that what is counted by image
can be counted inside of it. Of the predicted parts, first the item ids alone are read: where none
is in gold, nothing else is.

Memory: of the driver, 8 bytes for each gold row; of a process, one bucket or BLOCK_ROWS rows, which
are 0.2 GB with three masks a row.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from workers.labels.commits import Commit
from workers.labels.parts import LabelTable
from workers.labels.rows import has_answer
from workers.scoring.entries import COLUMNS, Entry, make_entry, pack_entries, unpack_entries
from workers.scoring.measures import Side
from workers.storage.stores import Anywhere, open_store
from workers.storage.uris import join_uri

BLOCK_ROWS = 20_000
"""Rows that are set aside in one object, and gold rows of a bucket: with three masks a row, some
100 MB of text, and twice that in a process."""
NO_GOLD = "predicted rows that no gold row is about"
_KEY_BYTES = 8

Keys = NDArray[np.uint64]
"""Digests of item ids, sorted; two items of the same key only cost a row that is set aside."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some parts of one table, next to each other."""

    number: int
    side: Side
    output: str
    """prefix of the table"""
    parts: tuple[Commit, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all pieces of a table have in common."""

    scratch: str
    """folder that every process reaches"""
    buckets: int
    wanted: Keys | None
    """items of other keys are not needed; None: all are"""


@dataclass(frozen=True, slots=True)
class Block:
    """Entries that were set aside: one object, bucket after bucket."""

    uri: str
    side: Side
    borders: tuple[int, ...]
    """(buckets + 1,) where each bucket begins, in bytes, and where the last one ends"""


@dataclass(frozen=True, slots=True)
class SplitPiece:
    """What became of a piece."""

    blocks: tuple[Block, ...]
    keys: Keys
    """of the entries"""
    told: Mapping[str, int]
    """rows that are no entries, in words, with how often"""


def cut_pieces(table: LabelTable, side: Side) -> list[Piece]:
    """The parts of a table by some BLOCK_ROWS rows; a larger part is a piece of its own."""
    pieces: list[Piece] = []
    some: list[Commit] = []
    rows = 0
    for part in table.parts:
        if some and rows + part.rows > BLOCK_ROWS:
            pieces.append(Piece(len(pieces), side, table.output, tuple(some)))
            some, rows = [], 0
        some.append(part)
        rows += part.rows
    return [*pieces, Piece(len(pieces), side, table.output, tuple(some))] if some else pieces


def count_buckets(gold: LabelTable) -> int:
    """How many buckets the join takes."""
    return max(1, -(-sum(part.rows for part in gold.parts) // BLOCK_ROWS))


def split_piece(piece: Piece, plan: Plan) -> SplitPiece:
    """Reads the rows of a piece and sets them aside by bucket.

    Raises:
        CommitError: a part is damaged or gone.
        StorageError: a store failed.
    """
    told, blocks, keys = Counter[str](), list[Block](), list[Keys]()
    for number, entries in enumerate(_in_blocks(_read_entries(piece, plan, told))):
        name = join_uri(plan.scratch, f"{piece.side}-{piece.number:06}-{number:03}")
        blocks.append(_set_aside(entries, name, piece.side, plan.buckets))
        keys.append(np.array([_key(entry.item_id) for entry in entries], np.uint64))
    return SplitPiece(tuple(blocks), _unite(keys), told)


def unite_keys(pieces: Iterable[SplitPiece]) -> Keys:
    """The keys of all entries of a table."""
    return _unite([piece.keys for piece in pieces])


def read_bucket(
    blocks: Sequence[Block], bucket: int, told: Counter[str]
) -> Iterator[tuple[Entry, Entry | None]]:
    """The gold entries of one bucket, each with its prediction, or None where there is none.

    Args:
        blocks: all, of both tables, in the order of their parts.
        bucket: from 0.
        told: gets the counts of what has no partner.
    """
    said = _first_answers(_entries_of(blocks, bucket, "predicted"), told)
    seen: set[str] = set()
    for gold in _entries_of(blocks, bucket, "gold"):
        if gold.item_id in seen:
            told["gold rows that repeat another"] += 1
            continue
        seen.add(gold.item_id)
        found = said.get(gold.item_id)
        if found is None:
            told["gold rows without a predicted one: nothing was predicted"] += 1
        elif not found.answered:
            told["gold rows whose predicted one has no answer: nothing was predicted"] += 1
        yield gold, found


def _read_entries(piece: Piece, plan: Plan, told: Counter[str]) -> Iterator[Entry]:
    for part in piece.parts:
        table = LabelTable(Anywhere(), piece.output, [part])
        if not _is_needed(table, plan.wanted):
            told[NO_GOLD] += part.rows
            continue
        for row in table.rows(COLUMNS):
            if piece.side == "gold" and not has_answer(row):
                told["gold rows without an answer"] += 1
            elif not _is_wanted(row.item_id, plan.wanted):
                told[NO_GOLD] += 1
            else:
                yield make_entry(row)


def _is_needed(table: LabelTable, wanted: Keys | None) -> bool:
    """Whether a part has anything that is wanted, by its item ids: a hundredth of its bytes."""
    return wanted is None or any(_is_wanted(row.item_id, wanted) for row in table.rows(["item_id"]))


def _is_wanted(item_id: str, wanted: Keys | None) -> bool:
    if wanted is None:
        return True
    key = np.uint64(_key(item_id))
    place = int(np.searchsorted(wanted, key))
    return place < len(wanted) and bool(wanted[place] == key)


def _in_blocks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    some: list[Entry] = []
    for entry in entries:
        some.append(entry)
        if len(some) == BLOCK_ROWS:
            yield some
            some = []
    if some:
        yield some


def _set_aside(entries: Iterable[Entry], uri: str, side: Side, buckets: int) -> Block:
    sorted_out = defaultdict[int, list[Entry]](list)
    for entry in entries:
        sorted_out[crc32(entry.image.encode()) % buckets].append(entry)
    packed = [pack_entries(sorted_out[bucket]) for bucket in range(buckets)]
    open_store(uri).put(uri, b"".join(packed))
    borders = np.cumsum([0, *map(len, packed)]).tolist()
    return Block(uri, side, tuple(borders))


def _entries_of(blocks: Sequence[Block], bucket: int, side: Side) -> Iterator[Entry]:
    for block in blocks:
        start, end = block.borders[bucket : bucket + 2]
        if block.side == side and end > start:
            yield from unpack_entries(open_store(block.uri).get(block.uri, start, end - start))


def _first_answers(entries: Iterable[Entry], told: Counter[str]) -> dict[str, Entry]:
    """By item id; of rows that repeat one another, the first with an answer."""
    found: dict[str, Entry] = {}
    for entry in entries:
        before = found.get(entry.item_id)
        if before is not None:
            told["predicted rows that repeat another"] += 1
        if before is None or (entry.answered and not before.answered):
            found[entry.item_id] = entry
    return found


def _key(item_id: str) -> int:
    """Of any text: a table that another program made may have ids of its own."""
    digest = blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()
    return int.from_bytes(digest)


def _unite(keys: Sequence[Keys]) -> Keys:
    return np.unique(np.concatenate([np.empty(0, np.uint64), *keys]))
