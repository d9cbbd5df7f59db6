"""The label table: rows <-> Parquet. One part for each shard, sorted by `item_id`.

The footer of a part says how to read it (version of the schema, form of the masks and the frame
they lie in) and what it holds, so that a part can be described from its bytes alone.
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from workers.errors import CommitError
from workers.labels.rows import blank_row
from workers.labels.schema import (
    LABEL_SCHEMA,
    MASK_FRAME,
    REPEATED_COLUMNS,
    RLE_FORM,
    SCHEMA_VERSION,
    TARGET_TYPE,
    LabelRow,
    TargetRow,
)
from workers.labels.sums import Sums
from workers.labels.targets import blank_target
from workers.shards.parquet import PARQUET_ERRORS, is_damage

ROW_GROUP_ROWS = 2_000
"""About 10 MB with three masks a row; a reader holds one group."""
READ_ROWS = 500
"""Turned into Python objects at once."""

_BLANK_ROW = {field.name: getattr(blank_row(), field.name) for field in fields(LabelRow)}
_BLANK_TARGET = {field.name: getattr(blank_target(), field.name) for field in fields(TargetRow)}


@dataclass(frozen=True, slots=True)
class PartIdentity:
    """What a part is; stands in its footer also where it has no rows."""

    run_id: str
    shard_id: str
    label_fingerprint: str


def write_part(rows: Iterable[LabelRow], identity: PartIdentity) -> bytes:
    """Writes one part: the rows of a shard, sorted by `item_id`."""
    ordered = sorted(rows, key=lambda row: (row.item_id, row.row_index))
    counts = Counter(row.status for row in ordered)
    errors = Counter(row.error_code for row in ordered if row.error_code)
    footer = {
        "pixellm.schema_version": SCHEMA_VERSION,
        "pixellm.rle": RLE_FORM,
        "pixellm.mask_frame": MASK_FRAME,
        "pixellm.run_id": identity.run_id,
        "pixellm.shard_id": identity.shard_id,
        "pixellm.label_fingerprint": identity.label_fingerprint,
        "pixellm.counts": json.dumps(counts, sort_keys=True),
        "pixellm.errors": json.dumps(errors, sort_keys=True),
        "pixellm.targets": str(sum(row.n_targets for row in ordered)),
    }
    columns = [_column(ordered, field) for field in LABEL_SCHEMA]
    table = pa.Table.from_arrays(columns, schema=LABEL_SCHEMA.with_metadata(footer))
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        row_group_size=ROW_GROUP_ROWS,
        use_dictionary=REPEATED_COLUMNS,
        sorting_columns=[pq.SortingColumn(0)],
        write_page_checksum=True,  # a flipped bit is else often another value, and no error
    )
    return sink.getvalue()


class PartReader:
    """A part whose footer has been read, and none of its rows.

    Args:
        file: the part; it must stay open while rows are read.
        name: of the part, for messages.

    Raises:
        CommitError: it is no part of a label table, or of another version.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        with _as_damage(f"{name} is no Parquet file"):
            # parts of older versions have no checksums, and are read all the same
            self._file = pq.ParquetFile(file, page_checksum_verification=True)
            footer = _footer(self._file)
        version = footer.get("pixellm.schema_version")
        if version != SCHEMA_VERSION:
            raise CommitError(
                f"{name} is a label table of version {version!r}, and this program reads"
                f" {SCHEMA_VERSION!r}. Read it with the version that wrote it, or start the same"
                " labelling command again: this version then labels anew beside it"
            )
        if not self._file.schema_arrow.equals(LABEL_SCHEMA):
            raise CommitError(f"{name} is damaged: its columns are not those of a label table")
        with _as_damage(f"{name} is damaged"):
            self.identity = _read_identity(footer)
            self.sums = Sums(
                rows=self._file.metadata.num_rows,
                counts=json.loads(footer["pixellm.counts"]),
                errors=json.loads(footer["pixellm.errors"]),
                targets=int(footer["pixellm.targets"]),
            )

    def rows(
        self, columns: Sequence[str] | None = None, within: range | None = None
    ) -> Iterator[LabelRow]:
        """Streams the rows.

        Args:
            columns: read only these; `targets.phrase` and the like name fields of the targets.
                The others are blank in the rows: "", 0, None, ().
            within: only rows with these numbers, from 0; row groups without any are not read.

        Raises:
            CommitError: the part is damaged.
        """
        chosen = columns and [each.replace("targets.", "targets.list.element.") for each in columns]
        wanted = range(self.sums.rows) if within is None else within
        with _as_damage(f"{self._name} is damaged"):
            groups, at = self._covering_groups(wanted)
            for batch in self._file.iter_batches(READ_ROWS, row_groups=groups, columns=chosen):
                part = batch.slice(
                    max(wanted.start - at, 0), max(wanted.stop - max(wanted.start, at), 0)
                )
                at += len(batch)
                yield from map(_to_row, part.to_pylist())

    def _covering_groups(self, wanted: range) -> tuple[list[int], int]:
        """The row groups that hold these rows, and the number of the first row in them."""
        footer = self._file.metadata
        ends = list(accumulate(footer.row_group(n).num_rows for n in range(footer.num_row_groups)))
        starts = [0, *ends[:-1]]
        groups = [
            number
            for number, (start, end) in enumerate(zip(starts, ends, strict=True))
            if start < wanted.stop and wanted.start < end
        ]
        return groups, starts[groups[0]] if groups else 0


def describe_part(data: bytes) -> Sums:
    """What the bytes of a part say about themselves: what a commit marker repeats.

    Raises:
        CommitError: they are no part of a label table, or of another version.
    """
    return PartReader(io.BytesIO(data), "the part").sums


def read_part(data: bytes) -> list[LabelRow]:
    """The rows of one part.

    Raises:
        CommitError: they are no part of a label table, or of another version.
    """
    return list(PartReader(io.BytesIO(data), "the part").rows())


def _column(rows: Sequence[LabelRow], field: pa.Field) -> pa.Array:
    if field.name != "targets":
        return _array([getattr(row, field.name) for row in rows], field.type)
    # column by column: ten times faster than a list of dictionaries a row
    targets = [target for row in rows for target in row.targets]
    parts = [_array([getattr(each, f.name) for each in targets], f.type) for f in TARGET_TYPE]
    offsets = [0]
    for row in rows:
        offsets.append(offsets[-1] + len(row.targets))
    structs = pa.StructArray.from_arrays(parts, fields=list(TARGET_TYPE))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, type=field.type)


def _array(values: list[object], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        # half of a surrogate pair: file names that are not UTF-8, and "\ud800" in JSON, bring them
        return pa.array([_without_surrogates(value) for value in values], kind)


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return [_without_surrogates(each) for each in value] if isinstance(value, tuple) else value


@contextmanager
def _as_damage(what: str) -> Iterator[None]:
    """Turns what pyarrow raises on bad bytes into a `CommitError`; the disk's own errors pass."""
    try:
        yield
    except (KeyError, *PARQUET_ERRORS) as error:  # KeyError: a flipped bit in a footer's key
        if not is_damage(error):
            raise
        raise CommitError(f"{what}: {error}") from error


def _read_identity(footer: Mapping[str, str]) -> PartIdentity:
    return PartIdentity(
        run_id=footer["pixellm.run_id"],
        shard_id=footer["pixellm.shard_id"],
        label_fingerprint=footer["pixellm.label_fingerprint"],
    )


def _footer(table: pq.ParquetFile) -> Mapping[str, str]:
    metadata = table.schema_arrow.metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def _to_row(values: dict[str, Any]) -> LabelRow:
    targets = tuple(
        TargetRow(**{**_BLANK_TARGET, **_with_tuples(each)}) for each in values.get("targets") or ()
    )
    return LabelRow(**{**_BLANK_ROW, **_with_tuples(values), "targets": targets})


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
