"""The driver of a labelling run: what is left of it is labelled, and what is whole is finished.

    plan -> what is committed -> label the rest on Ray -> manifest

The driver holds no state of its own: all of it is in the output, so that a driver may be killed at
any moment and the same command goes on. When nothing is left, Ray isn't even started.
"""

import time
from collections.abc import Callable, Generator, Sequence, Set
from contextlib import closing
from functools import partial

from workers.earlier import EarlierIndex, index_earlier
from workers.errors import OutputUnwritable, StorageError, StorageUnavailable
from workers.labels.commits import Guarantee
from workers.labels.manifests import Manifest, finish_run, stale_commits
from workers.progress import Progress, Say, counted
from workers.replica import Assignment
from workers.runs import Run
from workers.settings import LabelSettings
from workers.shards.plan import Shard
from workers.storage.stores import Anywhere
from workers.storage.uris import shown
from workers.summaries import RunSummary, ShardSummary, Tally

FAILED_IN_A_ROW = 20
"""Shards that fail with none committed in between: the store is down, and it isn't about them."""
NOT_REACHED = "not reached: the run ended before"
AT_LEAST_ONCE = (
    "has no conditional writes, so every shard is committed at least once, not exactly once: no "
    "row is lost or doubled, but where two workers end the same shard in the same moment, its "
    "marker may hold the sums of the one and its part the rows of the other. Do not start the same "
    "command twice at a time"
)
Replicas = Callable[
    [Sequence[Shard], LabelSettings, Callable[[], Assignment], Progress],
    Generator[ShardSummary, None, None],
]
"""Label shards; see `workers.pool.label_on_ray`."""


def label_run(run: Run, progress: Progress, replicas: Replicas | None = None) -> RunSummary:
    """Labels what is left and, when all is committed, writes the manifest.

    Args:
        run: from `plan_run`.
        progress: hears of all that happens.
        replicas: label the shards; without them, `workers.pool.label_on_ray` does.

    Raises:
        LineError: nothing could be begun: the output can't be written, or no replica starts.
    """
    started = time.monotonic()
    stopped = False
    if run.todo:
        try:
            _label_rest(run, progress, replicas)
        except KeyboardInterrupt:
            stopped = True
            progress.say("stopped; what is committed is kept, the same command does the rest")
    else:
        progress.say(f"nothing to do: {counted(len(run.shards), 'shard')}, all committed")
    return _finish(run, progress, time.monotonic() - started, stopped)


def _label_rest(run: Run, progress: Progress, replicas: Replicas | None) -> None:
    if replicas is None:  # Ray takes seconds to import, often for nothing
        from workers.cluster import check_address
        from workers.pool import label_on_ray

        check_address()
        replicas = label_on_ray
    _probe(run, progress.say)
    todo, failed_in_a_row = run.todo, 0
    begin = partial(_assign, run)
    summaries = replicas(todo, run.settings, begin, progress)
    with progress.running(len(todo), _count_records(todo)), closing(summaries):
        for summary in summaries:
            progress.add(summary)
            failed_in_a_row = failed_in_a_row + 1 if summary.error else 0
            if summary.ends_run or failed_in_a_row >= FAILED_IN_A_ROW:
                progress.say("the run ends here: the other shards would fail like this one")
                return


def _count_records(shards: Sequence[Shard]) -> int | None:
    """In all of the shards; None when one is a whole file, whose records nobody has counted."""
    counts = [shard.count for shard in shards]
    return sum(counts) if min(counts) >= 0 else None


def _probe(run: Run, say: Say) -> None:
    """Finds out how the output writes, before Ray is started for nothing."""
    try:
        guarantee = run.ledger.probe()
    except StorageUnavailable:
        raise
    except StorageError as error:
        raise OutputUnwritable(f"the output can't be written: {error}") from error
    if guarantee is Guarantee.AT_LEAST_ONCE:
        say(f"{shown(run.ledger.output)} {AT_LEAST_ONCE}")


def _assign(run: Run) -> Assignment:
    """What replicas must know; stores the lists that they will read."""
    run.lists.store_in(Anywhere())
    ledger = run.ledger
    return Assignment(
        run.settings, run.identity, ledger.run_id, ledger.guarantee, _index_earlier(run)
    )


def _index_earlier(run: Run) -> EarlierIndex:
    store, output = run.ledger.store, run.ledger.output
    commits = stale_commits(
        store,
        output,
        fingerprint=run.identity.label_fingerprint,
        sources={shard.source for shard in run.todo},
        run_id=run.ledger.run_id,
        plan={shard.shard_id for shard in run.shards},
    )
    return index_earlier(store, output, list(commits))


def _finish(run: Run, progress: Progress, seconds: float, stopped: bool) -> RunSummary:
    tally = progress.tally
    plan = [shard.shard_id for shard in run.shards]
    committed = run.ledger.committed_ids().intersection(plan)
    failures = {
        each: tally.failures.get(each, NOT_REACHED) for each in plan if each not in committed
    }
    if failures:
        _count_unheard(run, committed, tally)
    sums: Manifest | Tally = tally if failures else _write_manifest(run, plan)
    return RunSummary(
        run_id=run.ledger.run_id,
        output=run.ledger.output,
        shards=len(plan),
        found_committed=len(run.committed),
        counts=dict(sums.counts),
        errors=dict(sums.errors),
        targets=sums.targets,
        reused=tally.reused,
        seconds=seconds,
        pace=progress.pace,
        at_once=tally.at_once,
        failures=failures,
        stopped=stopped,
    )


def _write_manifest(run: Run, plan: Sequence[str]) -> Manifest:
    return finish_run(
        run.ledger,
        plan,
        planned_at=run.planned_at,
        source=run.settings.input,
        settings_digest=run.request,
        fingerprint=run.identity.label_fingerprint,
        model_sha256=run.identity.model_sha256,
        adapter_sha256=run.identity.adapter_sha256 or "",
    )


def _count_unheard(run: Run, committed: Set[str], tally: Tally) -> None:
    """Counts in what replicas committed in this start and could not tell any more."""
    for shard_id in sorted(committed - run.committed - tally.done):
        if (commit := run.ledger.get(shard_id)) is not None:
            tally.add_committed(shard_id, commit)
