"""Rows without an answer: some of them for people, and those that may have one by now."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from workers.errors import CommitError, StorageError
from workers.labels.commits import Commit
from workers.labels.manifests import current_commits
from workers.labels.parts import read_rows
from workers.labels.rows import LABELLED
from workers.labels.schema import LabelRow
from workers.records.rejections import Reason
from workers.storage.objects import Store
from workers.storage.uris import redact

PROBLEMS_SHOWN = 20
"""Enough to see what is wrong, and no list of all. Those are in the table."""
UNREADABLE = str(Reason.IMAGE_UNREADABLE)
"""Why a row has no answer that will have one as soon as somebody gives the right to read a file."""
QUESTION_CHARS = 200
"""Of a question: enough to know which one it is."""
_COLUMNS = (
    "image_uri",
    "image_member",
    "instruction_id",
    "instruction",
    "status",
    "error_code",
    "error_message",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A row without an answer."""

    image: str
    instruction_id: str
    status: str
    reason: str
    message: str
    instruction: str = ""
    """what was asked, or how it begins: the dropper's own words, or those of the watcher"""

    @classmethod
    def of(cls, row: LabelRow) -> "Problem":
        """What a person should know of it."""
        member = f" in it: {row.image_member}" if row.image_member else ""
        return cls(
            redact(row.image_uri) + member,
            row.instruction_id,
            row.status,
            row.error_code or "",
            row.error_message or "",
            _begin(row.instruction),
        )


def _begin(text: str) -> str:
    return text if len(text) <= QUESTION_CHARS else f"{text[:QUESTION_CHARS]}..."


def find_problems(store: Store, output: str, commits: Iterable[Commit]) -> tuple[Problem, ...]:
    """The first rows without an answer, of those in the parts of commits.

    Raises:
        CommitError: a part is damaged.
        StorageError: the store failed.
    """

    def has_some(commit: Commit) -> bool:
        return any(status not in LABELLED for status in commit.counts)

    rows = read_rows(store, output, list(filter(has_some, commits)), _COLUMNS)
    found = (Problem.of(row) for row in rows if row.status not in LABELLED)
    return tuple(islice(found, PROBLEMS_SHOWN))


def can_any_be_read(store: Store, output: str, run_id: str) -> bool:
    """Whether an image may be read by now that might not be when its row was made.

    Args:
        store: where images and output lie.
        output: with the label table.
        run_id: of the run that made it.

    Raises:
        CommitError: a part is damaged.
        StorageError: the output can't be read.
    """

    def has_some(commit: Commit) -> bool:
        return UNREADABLE in commit.errors

    try:
        commits = list(filter(has_some, current_commits(store, output, run_id)))
    except CommitError:  # nothing is committed
        return False
    rows = read_rows(store, output, commits, _COLUMNS)
    return any(_can_be_read(store, row.image_uri) for row in rows if row.error_code == UNREADABLE)


def _can_be_read(store: Store, uri: str) -> bool:
    try:
        store.get(uri, 0, 1)
    except StorageError:
        return False
    return True
