"""Rows of a drop that were kept: those that are older than its last change.

A row that is carried over keeps the time at which it was made; that of its commit is a new one.
"""

from datetime import datetime

from workers.labels.manifests import current_commits
from workers.labels.parts import read_rows
from workers.storage.objects import Store


def count_older(store: Store, output: str, run_id: str, moment: str) -> int:
    """Rows of a finished run that were made before a moment.

    Args:
        store: where the output lies.
        output: with the label table.
        run_id: of the run.
        moment: UTC, ISO 8601.

    Raises:
        CommitError: the output is damaged.
        StorageError: it can't be read.
    """
    commits = list(current_commits(store, output, run_id))
    older = sum(commit.rows for commit in commits if commit.created_at < moment)
    since = [commit for commit in commits if commit.created_at >= moment]
    rows = read_rows(store, output, since, ("created_at",))
    limit = datetime.fromisoformat(moment)
    return older + sum(row.created_at < limit for row in rows)
