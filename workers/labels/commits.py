"""Committed work: a part of the label table, and then the marker that makes it count.

    OUTPUT/labels/<run>/<shard>.parquet      1 the part: rows, not yet to be believed
    OUTPUT/_commits/<run>/<shard>.json       2 its marker: from now on the part counts
    OUTPUT/_runs/...                         3 the run is finished, see `workers.labels.manifests`

Killed before 1, nothing was there. Killed between 1 and 2, the next attempt finds the part,
believes its own reading of it, and writes the marker; a part that can't be read (a disk that lost
its power) it puts its own over. Killed after 2, the next attempt is told so.
Two attempts at once: the first part and the first marker stay, and both attempts return that
marker. So the same call ends in the same state from wherever it starts.

A run id stands for one input and one label fingerprint; whoever makes run ids sees to that.
"""

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, ClassVar, Self, get_origin

from workers.errors import (
    AccessDenied,
    CommitError,
    ConditionUnsupported,
    ObjectMissing,
    OutputUnwritable,
    StorageError,
    StorageUnavailable,
)
from workers.labels.sums import Sums
from workers.labels.table import describe_part, read_part
from workers.packed import PackedSet
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown, under

PARTS, MARKERS = "labels", "_commits"  # folders of the output
SCHEMA = 1  # of markers and manifests; a reader refuses what it does not know
LONGEST_ID = 64
"""Letters of a shard id, which has 20; what else lies beside the markers may have more."""
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Guarantee(StrEnum):
    """What a store lets us promise about a shard."""

    EXACTLY_ONCE = "exactly once"
    AT_LEAST_ONCE = "at least once"
    """The store overwrites where it should refuse. All attempts use the same names, so no row is
    doubled; but when two attempts write in the same moment, the later part may replace the earlier
    one after the marker was written, and the sums in the marker are then not those of the part."""


@contextmanager
def writing_output() -> Iterator[None]:
    """What a store says of the output concerns all shards; of the input it would be about one.

    Raises:
        OutputUnwritable: the output takes nothing, and waiting will not help.
        StorageUnavailable: it does not just now.
    """
    try:
        yield
    except StorageUnavailable:
        raise
    except StorageError as error:
        raise OutputUnwritable(
            f"the output can't be written: {error}. What is committed is kept; when the output can "
            "be written again, the same command does the rest."
        ) from error


@dataclass(frozen=True, slots=True)
class JsonFile:
    """A small JSON object in the output; keys that it does not know are read over."""

    LATER: ClassVar[tuple[str, ...]] = ()
    """Texts that an older file lacks; they are empty then."""

    def to_json(self) -> bytes:
        """One line; the same values give the same bytes."""
        values = {"schema": SCHEMA, **asdict(self)}
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Self:
        """Read what `to_json` wrote; `where` names the file in a message.

        Raises:
            CommitError: it is something else, or of another version of this program.
        """
        try:
            values: dict[str, Any] = dict.fromkeys(cls.LATER, "") | dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise CommitError(f"{shown(where)} is not a JSON object: {error}") from error
        version = values.pop("schema", None)
        if version != SCHEMA:
            raise CommitError(
                f"{shown(where)} has schema {version!r}, this program knows {SCHEMA}. "
                "Read it with the version that wrote it, or label into an empty output."
            )
        kinds: dict[str, Any] = {f.name: get_origin(f.type) or f.type for f in fields(cls)}
        for name, kind in kinds.items():
            if not isinstance(values.get(name), kind):
                raise CommitError(f"{shown(where)}: {name!r} is missing or of a wrong type")
        return cls(**{name: values[name] for name in kinds})


@dataclass(frozen=True, slots=True)
class Commit(JsonFile, Sums):
    """A marker: this part counts."""

    run_id: str
    shard_id: str
    part: str
    """Path below the output, so that an output can be moved."""
    sha256: str
    """Of the bytes of the part, in hex."""
    bytes: int
    fingerprint: str
    source: str
    source_etag: str
    created_at: str
    """UTC, ISO 8601."""


class Ledger:
    """The commits of one run.

    Args:
        store: where the output lies.
        output: prefix of the output.
        run_id: letters, digits and `._-`.
        guarantee: what `probe` found; the driver probes once and tells the workers.
    """

    def __init__(
        self,
        store: Store,
        output: str,
        run_id: str,
        guarantee: Guarantee = Guarantee.EXACTLY_ONCE,
    ) -> None:
        if not _RUN_ID.fullmatch(run_id):
            raise CommitError(f"run id {run_id!r} is not made of letters, digits, '.', '_', '-'")
        self.store = store
        self.output = output
        self.run_id = run_id
        self.guarantee = guarantee

    def probe(self) -> Guarantee:
        """Find out, by trying, whether the store honours conditions; `commit` then relies on it."""
        uri = join_uri(self.output, MARKERS, f"_probe-{uuid.uuid4().hex}")
        try:
            tries = [self.store.put_if_absent(uri, data) for data in (b"first", b"second")]
        except ConditionUnsupported:
            tries = []
        finally:
            # labelling needs no right to delete; and what was not written can't be deleted
            with suppress(AccessDenied, ObjectMissing):
                self.store.delete(uri)
        honest = tries == [True, False]
        self.guarantee = Guarantee.EXACTLY_ONCE if honest else Guarantee.AT_LEAST_ONCE
        return self.guarantee

    def committed_ids(self) -> PackedSet:
        """The shards that need no work; from a listing, without reading a marker."""
        folder = join_uri(self.output, MARKERS, self.run_id)
        names = (under(info.uri, folder) or "" for info in self.store.list(folder))
        ids = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return PackedSet(each for each in ids if len(each) <= LONGEST_ID)

    def get(self, shard_id: str) -> Commit | None:
        """The commit of a shard, when there is one."""
        uri = marker_uri(self.output, self.run_id, shard_id)
        try:
            return Commit.from_json(self.store.get(uri), uri)
        except ObjectMissing:
            return None

    def commit(
        self, shard_id: str, part: bytes, *, fingerprint: str, source: str, source_etag: str
    ) -> tuple[Commit, bool]:
        """Make a part count, unless another attempt at this shard was first.

        Returns:
            The commit that counts, and whether this call made it. A part that is there without
            a marker is adopted: the marker then describes the stored part, not the given one.
            One that can't be read is replaced.
        """
        name = part_name(self.run_id, shard_id)
        if not self._create(join_uri(self.output, name), part):
            if earlier := self.get(shard_id):
                return earlier, False
            part = self._adopt(join_uri(self.output, name), part)
        commit = Commit(
            run_id=self.run_id,
            shard_id=shard_id,
            part=name,
            sha256=sha256(part).hexdigest(),
            bytes=len(part),
            fingerprint=fingerprint,
            source=source,
            source_etag=source_etag,
            created_at=now(),
            **asdict(describe_part(part)),
        )
        return self._mark(commit)

    def _adopt(self, uri: str, own: bytes) -> bytes:
        """The part that is there without a marker; where it can't be read, `own` is put over it."""
        stored = self.store.get(uri)
        try:
            read_part(stored)
        except CommitError:
            # Two attempts may both come here. What each puts is whole, and of the same shard and
            # run, so the one that stays can be read and no row is doubled. The worst: the second
            # put comes after the first marker, and the sums in that are not those of the part, as
            # in AT_LEAST_ONCE; but it takes a broken part and two attempts in the same moment.
            self.store.put(uri, own)
            return own
        return stored

    def _mark(self, commit: Commit) -> tuple[Commit, bool]:
        uri = marker_uri(self.output, self.run_id, commit.shard_id)
        if self._create(uri, commit.to_json()):
            return commit, True
        return Commit.from_json(self.store.get(uri), uri), False

    def _create(self, uri: str, data: bytes) -> bool:
        """True when this call created the object; without conditions a look before has to do."""
        if self.guarantee is Guarantee.EXACTLY_ONCE:
            return self.store.put_if_absent(uri, data)
        try:
            self.store.stat(uri)
        except ObjectMissing:
            self.store.put(uri, data)
            return True
        return False


def part_name(run_id: str, shard_id: str) -> str:
    """The path of a part below the output; the same for every attempt."""
    return f"{PARTS}/{run_id}/{shard_id}.parquet"


def marker_uri(output: str, run_id: str, shard_id: str) -> str:
    """Where the marker of a shard lies."""
    return join_uri(output, MARKERS, run_id, f"{shard_id}.json")


def now() -> str:
    """The time in UTC, ISO 8601 with microseconds: as text it sorts as in time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
