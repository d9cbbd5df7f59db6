"""Cut an input into shards: the units of work, of retry and of commit.

    JSONL    lines of a file, by byte range (a .gz can't be entered in the middle: whole)
    PARQUET  rows of a file, by row groups
    TAR      a whole file
    IMAGES   lines of a listing that the plan itself writes, since images list nothing

The same input always gives the same plan. Borders of JSONL and IMAGES shards are chosen by content:
a line put in or taken out moves the borders next to it, and all other shards keep their identity
and so their commits.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

from workers.errors import PlanError
from workers.packed import Packed
from workers.shards.borders import Border, Identity
from workers.shards.inputs import Inputs, find_inputs
from workers.shards.kinds import IMAGE_SUFFIXES, SHARD_SUFFIXES, ShardKind, kind_of
from workers.shards.listings import ListingWriter
from workers.shards.parquet import row_groups
from workers.storage.objects import ObjectInfo, Store
from workers.storage.uris import NOT_TEXT, is_text, scheme_of, shown

if TYPE_CHECKING:
    from hashlib import _Hash

LISTING_BYTES = 4 * 2**20  # of one listing object: some 15,000 images, one request to read
NOTHING_ELSE = "Nothing else is there either: is the place right?"
PIECE_BYTES = 2**20  # a line longer than this is read in pieces, whatever its length


@dataclass(frozen=True, slots=True)
class Shard:
    """Some records of an input, and where to read them."""

    shard_id: str
    """20 hex digits, from kind, source and content (not from the place in the file)."""
    kind: ShardKind
    uri: str
    """The file to read; for IMAGES the listing object."""
    source: str
    """The input file; for IMAGES the input prefix."""
    etag: str
    """Of the file when it was planned; for IMAGES a digest of the lines."""
    size: int
    """Bytes of the file; for IMAGES of the images of this shard together."""
    first: int = 0
    """Records before this shard in its source; lines of white space are no records."""
    count: int = -1
    """Records; -1 for a whole file whose records can't be counted without reading it all."""
    offset: int = 0
    """First byte in `uri`."""
    length: int = -1
    """Bytes in `uri`; -1 for all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An input, cut into shards, and what a person should know of it before work begins."""

    shards: Sequence[Shard]
    """at least one"""
    images: int
    """that are asked by themselves, since no file lists them"""
    unasked: int
    """of these, without an instruction beside or above them"""
    beside: int
    """that lie beside files that list records, and are labelled where those name them"""
    first_beside: str | None = None
    """one of them"""


def plan_shards(
    store: Store,
    prefix: str,
    *,
    records_per_shard: int,
    listing_writer: ListingWriter,
    exclude: Sequence[str] = (),
    shallow: bool = False,
) -> Plan:
    """Cut everything under a prefix into shards of at most `records_per_shard` records.

    Where there are files that list records (JSONL, Parquet, tar), images beside them are not
    planned by themselves: the files refer to them. A .gz, a .tar is one shard whatever it holds,
    and so is a Parquet file that is damaged: reading it ends in a row that says so.

    Args:
        store: where the input lies.
        prefix: a folder, or one file.
        records_per_shard: at least 1.
        listing_writer: stores a listing of images (`LISTING_BYTES` at most, unless one shard is
            longer) and returns its URI; see `WaitingListings`.
        exclude: folders that are no input although they lie under the prefix.
        shallow: only what lies in the prefix itself, and not in its folders.

    Raises:
        PlanError: there is nothing to label.
        StorageError: see `workers.errors`.
    """
    border, identity = Border(records_per_shard), Identity()
    with find_inputs(store, prefix, exclude, shallow=shallow) as inputs:
        listed = (s for info in inputs.files for s in _cut_file(store, info, border, identity))
        images = _cut_images(inputs, prefix, border, identity, listing_writer)
        shards = Packed(chain(listed, images))
        if not shards:
            raise PlanError(_nothing(prefix, inputs))
        seen = inputs.images_seen
        asked, beside = (0, seen) if inputs.files else (seen, 0)
        first = inputs.first_image if beside else None
        return Plan(shards, asked, inputs.unasked, beside, first)


def _cut_file(
    store: Store, info: ObjectInfo, border: Border, identity: Identity
) -> Iterator[Shard]:
    kind = kind_of(info.uri)
    assert kind is not None, info.uri
    if not is_text(info.uri):
        raise PlanError(f"{shown(info.uri)}: {NOT_TEXT}")
    whole = Shard("", kind, info.uri, info.uri, info.etag, info.size)
    if kind is ShardKind.PARQUET:
        yield from _cut_parquet(store, whole, border.limit, identity)
    elif kind is ShardKind.JSONL and not info.uri.lower().endswith(".gz"):
        with store.open(info.uri) as file:
            yield from _cut_lines(file, whole, border, identity)
    else:
        yield _whole_shard(whole, identity)


def _whole_shard(whole: Shard, identity: Identity) -> Shard:
    content = f"{whole.etag} {whole.size}"
    return replace(whole, shard_id=identity.of(whole.kind, whole.source, content))


@dataclass(slots=True)
class _Range:
    """Lines of a file that will be a shard."""

    first: int
    offset: int
    count: int = 0
    length: int = 0
    content: "_Hash" = field(default_factory=sha256)


def _cut_lines(file: BinaryIO, whole: Shard, border: Border, identity: Identity) -> Iterator[Shard]:
    part, at_start = _Range(0, 0), True
    for piece in iter(lambda: file.readline(PIECE_BYTES), b""):
        if at_start and piece.strip():
            if part.count and border.before(piece.rstrip(b"\r\n"), part.count):
                yield _line_shard(whole, part, identity)
                part = _Range(part.first + part.count, part.offset + part.length)
            part.count += 1
        part.content.update(piece)
        part.length += len(piece)
        at_start = piece.endswith(b"\n")
    if part.count:
        yield _line_shard(whole, part, identity)


def _line_shard(whole: Shard, part: _Range, identity: Identity) -> Shard:
    return replace(
        whole,
        shard_id=identity.of(whole.kind, whole.source, part.content.hexdigest()),
        first=part.first,
        count=part.count,
        offset=part.offset,
        length=part.length,
    )


def _cut_parquet(store: Store, whole: Shard, limit: int, identity: Identity) -> Iterator[Shard]:
    groups = row_groups(store, whole.uri)
    if groups is None:
        yield _whole_shard(whole, identity)
        return
    first = 0
    for count in _row_ranges(groups, limit):
        shard_id = identity.of(whole.kind, whole.source, f"{whole.etag} {first} {count}")
        yield replace(whole, shard_id=shard_id, first=first, count=count)
        first += count


def _row_ranges(groups: Sequence[int], limit: int) -> Iterator[int]:
    """Join small groups up to the limit; a group over the limit is divided."""
    rows = 0
    for group in groups:
        if rows and rows + group > limit:
            yield rows
            rows = 0
        rows += group
        while rows > limit:
            yield limit
            rows -= limit
    if rows:
        yield rows


def _cut_images(
    inputs: Inputs, prefix: str, border: Border, identity: Identity, write: ListingWriter
) -> Iterator[Shard]:
    """Join the lines of many shards into one listing object, stored as soon as it is full."""
    text, waiting, first = b"", list[Shard](), 0
    for lines, size in _image_runs(inputs, border):
        part = b"".join(lines)
        if text and len(text) + len(part) > LISTING_BYTES:
            yield from _placed(waiting, write(text))
            text, waiting = b"", []
        digest = sha256(part).hexdigest()
        shard_id = identity.of(ShardKind.IMAGES, prefix, digest)
        shard = Shard(shard_id, ShardKind.IMAGES, "", prefix, digest[:32], size)
        waiting.append(
            replace(shard, first=first, count=len(lines), offset=len(text), length=len(part))
        )
        text, first = text + part, first + len(lines)
    if waiting:
        yield from _placed(waiting, write(text))


def _placed(shards: list[Shard], uri: str) -> Iterator[Shard]:
    return (replace(shard, uri=uri) for shard in shards)


def _image_runs(inputs: Inputs, border: Border) -> Iterator[tuple[list[bytes], int]]:
    """The lines of each shard, and the bytes of its images."""
    lines, size = list[bytes](), 0
    for line in inputs.images():
        # The name decides and not the whole line: a changed image must not move a border.
        if lines and border.before(os.fsencode(line.image), len(lines)):
            yield lines, size
            lines, size = [], 0
        lines.append(line.to_json())
        size += line.size
    if lines:
        yield lines, size


def _nothing(prefix: str, inputs: Inputs) -> str:
    if inputs.files:
        return f"the files under {shown(prefix)} hold no records: {shown(inputs.files[0].uri)}..."
    if not scheme_of(prefix) and not os.path.lexists(prefix):
        return f"there is no file or folder {shown(prefix)}"
    seen = ", ".join(shown(uri) for uri in inputs.others)
    return (
        f"nothing to label under {shown(prefix)}: no file ending in {', '.join(SHARD_SUFFIXES)} "
        f"and no image ({', '.join(sorted(IMAGE_SUFFIXES))}); names that begin with '_' or '.' "
        f"do not count. {f'Other things are there: {seen}' if seen else NOTHING_ELSE}"
    )
