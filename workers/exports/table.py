"""The label table as an export reads it: committed parts, whose rows come by as often as asked."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from workers.errors import CommitError
from workers.labels.commits import MARKERS, Commit
from workers.labels.manifests import current_commits
from workers.labels.parts import read_rows
from workers.labels.schema import LabelRow
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown

MOST_LOOKED_AT = 10_000
"""Objects, for a hint in a message."""


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
