"""The label table as an export reads it: committed parts, whose rows come by as often as asked."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from workers.labels.commits import Commit
from workers.labels.manifests import current_commits
from workers.labels.parts import read_rows
from workers.labels.schema import LabelRow
from workers.storage.objects import Store


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
        CommitError: nothing has been committed, or several runs and none of them finished.
        StorageError: the store failed.
    """
    return LabelTable(store, output, list(current_commits(store, output, run_id)))
