"""What scoring needs of a row of a label table, and how it is set aside on the way to its partner.

Set aside as compressed lines of JSON: nothing that is read back can run code, so it may lie in a
bucket that others write to.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from workers.labels.calibration import RAW_SCORES
from workers.labels.rows import ANSWER_COLUMNS, has_answer
from workers.labels.schema import LabelRow, TargetRow
from workers.labels.targets import is_region

COLUMNS = (
    "item_id",
    "image_sha256",
    "instruction_kind",
    "model_sha256",
    "adapter_sha256",
    *ANSWER_COLUMNS,
    *(
        f"targets.{name}"
        for name in ("phrase", "category", "rle_size", "rle_counts", "score", *RAW_SCORES)
    ),
)
"""Of the label table, that make an entry."""
_LEVEL = 1  # of zlib: half of the bytes at 100 MB a second; more costs more than it saves


@dataclass(frozen=True, slots=True)
class EntryTarget:
    """One mask of a row."""

    name: str | None
    """its phrase, or its category where it has none"""
    size: tuple[int, int]
    """h, w"""
    counts: str
    """compressed COCO run lengths"""
    score: float
    raw: tuple[float | None, ...]
    """in the order of `RAW_SCORES`"""
    ignored: bool
    """no target, but a region whose pixels count for nothing; only in gold tables"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row."""

    item_id: str
    image: str
    """SHA-256"""
    kind: str
    """of the instruction"""
    answered: bool
    """False where it failed, or was cut off before it said anything, be it that nothing matches"""
    model_sha256: str
    adapter_sha256: str | None
    targets: tuple[EntryTarget, ...]


def make_entry(row: LabelRow) -> Entry:
    """Takes from a row what scoring needs."""
    return Entry(
        row.item_id,
        row.image_sha256,
        row.instruction_kind,
        has_answer(row),
        row.model_sha256,
        row.adapter_sha256,
        tuple(map(_make_target, row.targets)),
    )


def pack_entries(entries: Iterable[Entry]) -> bytes:
    """What `unpack_entries` reads; nothing where there are none."""
    lines = [json.dumps(_to_list(entry), separators=(",", ":")) for entry in entries]
    return zlib.compress("\n".join(lines).encode("ascii"), _LEVEL) if lines else b""


def unpack_entries(data: bytes) -> Iterator[Entry]:
    """The entries, in the same order."""
    for line in zlib.decompress(data).splitlines() if data else ():
        item_id, image, kind, answered, model, adapter, targets = json.loads(line)
        masks = tuple(map(_from_list, targets))
        yield Entry(item_id, image, kind, answered, model, adapter, masks)


def _make_target(target: TargetRow) -> EntryTarget:
    return EntryTarget(
        target.phrase or target.category,
        target.rle_size,
        target.rle_counts,
        target.score,
        tuple(getattr(target, name) for name in RAW_SCORES),
        is_region(target),
    )


def _to_list(entry: Entry) -> list[object]:
    targets = [
        (each.name, each.size, each.counts, each.score, each.raw, each.ignored)
        for each in entry.targets
    ]
    return [
        entry.item_id,
        entry.image,
        entry.kind,
        entry.answered,
        entry.model_sha256,
        entry.adapter_sha256,
        targets,
    ]


def _from_list(values: list[object]) -> EntryTarget:
    name, size, counts, score, raw, ignored = values
    return EntryTarget(name, tuple(size), counts, score, tuple(raw), ignored)  # type: ignore[arg-type]
