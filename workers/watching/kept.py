"""What is committed of a drop by now, and which of its rows were kept: those older than its change.

A row that is carried over keeps the time at which it was made; that of its commit is a new one.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from workers.labels.commits import Commit
from workers.labels.manifests import READERS, current_commits
from workers.labels.parts import read_rows
from workers.runs import Run
from workers.storage.objects import Store
from workers.summaries import RunSummary


def commits_of(store: Store, run: Run, summary: RunSummary) -> list[Commit]:
    """The table of a run that has ended or, unfinished, what any start has committed of its plan.

    Of an unfinished one the manifest, if there is one, is that of the drop before its change.

    Raises:
        CommitError: the output is damaged.
        StorageError: it can't be read.
    """
    if not summary.failures:
        return list(current_commits(store, summary.output, summary.run_id))
    done = run.ledger.committed_ids()
    ids = [shard.shard_id for shard in run.shards if shard.shard_id in done]
    with ThreadPoolExecutor(READERS) as pool:
        return [commit for commit in pool.map(run.ledger.get, ids) if commit is not None]


def count_older(store: Store, output: str, commits: Sequence[Commit], moment: str) -> int:
    """Rows that were made before a moment.

    Args:
        store: where the output lies.
        output: with the label table.
        commits: whose rows are meant.
        moment: UTC, ISO 8601.

    Raises:
        CommitError: the output is damaged.
        StorageError: it can't be read.
    """
    older = sum(commit.rows for commit in commits if commit.created_at < moment)
    since = [commit for commit in commits if commit.created_at >= moment]
    rows = read_rows(store, output, since, ("created_at",))
    limit = datetime.fromisoformat(moment)
    return older + sum(row.created_at < limit for row in rows)
