"""Committed parts -> their rows, as often as asked; a part must be the one of its commit."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

from workers.errors import CommitError, ObjectMissing
from workers.labels.commits import MARKERS, PARTS, Commit, marker_uri
from workers.labels.manifests import RUNS, current_commits
from workers.labels.schema import LabelRow
from workers.labels.table import PartIdentity, PartReader
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown

MOST_LOOKED_AT = 10_000
"""Objects, for a hint in a message."""


def read_rows(
    store: Store, output: str, commits: Iterable[Commit], columns: Sequence[str] | None = None
) -> Iterator[LabelRow]:
    """Streams the rows of committed parts, in the order of the commits.

    Args:
        store: where the output lies.
        output: its prefix.
        commits: from `workers.labels.manifests.current_commits`.
        columns: read only these, which can be a hundredth of the bytes; see `PartReader.rows`.

    Raises:
        CommitError: a part is damaged or gone, or is not the one that its marker is about.
        StorageError: the store failed.
    """
    for commit in commits:
        with _open_part(store, output, commit) as part:
            yield from part.rows(columns)


def read_block(
    store: Store, output: str, commit: Commit, within: range, columns: Sequence[str] | None = None
) -> list[LabelRow]:
    """Reads some rows of one committed part; of a large part, only the row groups that hold them.

    Args:
        store: where the output lies.
        output: its prefix.
        commit: from `workers.labels.manifests.current_commits`.
        within: numbers of the rows in the part, from 0.
        columns: read only these; see `PartReader.rows`.

    Raises:
        CommitError: the part is damaged or gone, or is not the one that its marker is about.
        StorageError: the store failed.
    """
    with _open_part(store, output, commit) as part:
        return list(part.rows(columns, within))


@dataclass(frozen=True, slots=True)
class LabelTable:
    """The rows of one run. Its parts are listed once, so a run that goes on changes nothing here.

    Nothing is read at once: a form that needs two looks at the rows lets them come by twice.
    """

    store: Store
    output: str
    """prefix of the label table"""
    parts: Sequence[Commit]

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[LabelRow]:
        """Streams the rows, each time in the same order.

        Args:
            columns: read only these; see `PartReader.rows`.

        Raises:
            CommitError: a part is damaged or gone.
            StorageError: the store failed.
        """
        return read_rows(self.store, self.output, self.parts, columns)

    def only(self, numbers: Iterable[int]) -> "LabelTable":
        """Some of the parts, by number from 0: where masks are wanted of a few, read only those."""
        return replace(self, parts=[self.parts[number] for number in numbers])


def open_table(store: Store, output: str, run_id: str | None) -> LabelTable:
    """Lists the committed parts of a run.

    Args:
        store: of the label table.
        output: its prefix.
        run_id: the run; None for the newest finished one.

    Raises:
        CommitError: nothing has been committed, or several runs and none of them finished; where
            tables lie in folders below, as in the output of a watcher, one of them is named.
        StorageError: the store failed.
    """
    try:
        return LabelTable(store, output, list(current_commits(store, output, run_id)))
    except CommitError as error:
        if below := _find_table(store, output):
            why = f"{error}; labels lie in folders of their own below it: give one, such as"
            raise CommitError(f"{why} {shown(below)}") from error
        raise


def _find_table(store: Store, output: str) -> str:
    """The first folder below with a label table; empty where none is found soon, or one is here."""
    if store.any_under(join_uri(output, MARKERS)):
        return ""
    found = (info.uri.partition(f"/{MARKERS}/") for info in store.list(output))
    return next((folder for folder, marked, _ in islice(found, MOST_LOOKED_AT) if marked), "")


@contextmanager
def _open_part(store: Store, output: str, commit: Commit) -> Iterator[PartReader]:
    uri, marker = join_uri(output, commit.part), marker_uri(output, commit.run_id, commit.shard_id)
    try:
        with store.open(uri) as file:
            part = PartReader(file, shown(uri))
            _check_part(part, commit, shown(uri))
            yield part
    except ObjectMissing as error:  # before it was opened, or while it was read
        raise CommitError(
            f"{shown(uri)} is committed and is not there any more. Delete its marker"
            f" {shown(marker)} (where all of {PARTS!r} is gone: {MARKERS!r} and {RUNS!r} under"
            f" {shown(output)}) and start the run again: then it is labelled anew."
        ) from error


def _check_part(part: PartReader, commit: Commit, name: str) -> None:
    """Looks at what the open footer says; digest and size would cost reading all of the part.

    Not at the counts by status: where a store gives no more than `Guarantee.AT_LEAST_ONCE`, the
    marker may have those of another attempt at the same shard, and the rows are as good.
    """
    said = PartIdentity(commit.run_id, commit.shard_id, commit.fingerprint), commit.rows
    found = part.identity, part.sums.rows
    if said != found:
        raise CommitError(
            f"{name} is not what was committed: its marker is about {said[1]:,} rows of {said[0]},"
            f" and it holds {found[1]:,} rows of {found[0]}. Delete the part and its marker and"
            " start the run again: then the shard is labelled anew."
        )
