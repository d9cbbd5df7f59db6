"""The driver of a labelling run: what is left of it is labelled, and what is whole is finished.

    plan -> what is committed -> label the rest on Ray -> manifest

The driver holds no state of its own: all of it is in the output, so that a driver may be killed at
any moment and the same command goes on. When nothing is left, Ray isn't even started.
"""

import time
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from contextlib import closing
from functools import partial

from workers.errands import Assignment, Errand
from workers.labels.manifests import Manifest, finish_run
from workers.open_run import ITS_OWN, OpenRun
from workers.packed import Packed
from workers.progress import Progress
from workers.prospects import Prospects
from workers.runs import Run
from workers.settings import LabelSettings
from workers.shards.plan import Shard
from workers.stopping import Stop
from workers.summaries import RunSummary, ShardSummary, Tally
from workers.wording import counted

NOT_REACHED = "not reached: the run ended before"
SAME_COMMAND = "what is committed is kept, the same command does the rest"
Replicas = Callable[
    [Sequence[Errand], LabelSettings, Callable[[], Sequence[Assignment]], Progress, Stop],
    Generator[ShardSummary, None, None],
]
"""Label shards; see `workers.pool.label_on_ray`."""


def label_run(
    run: Run, progress: Progress, stop: Stop | None = None, replicas: Replicas | None = None
) -> RunSummary:
    """Labels what is left of one run; see `label_runs`.

    Raises:
        LineError: nothing could be begun, or what is in the output can't be worked with.
    """
    (summary,) = label_runs([run], progress, stop, replicas)
    if summary.trouble is not None and not summary.interrupted:
        raise summary.trouble
    return summary


def label_runs(
    runs: Sequence[Run],
    progress: Progress,
    stop: Stop | None = None,
    replicas: Replicas | None = None,
) -> Iterator[RunSummary]:
    """Labels what is left of some runs together and, when all of one is committed, finishes it.

    Args:
        runs: from `plan_run`, each with an id of its own, with the same settings of model, decoding
            and replicas.
        progress: hears of all that happens.
        stop: what may end the work early; without it, only Ctrl-C.
        replicas: label the shards; without them, `workers.pool.label_on_ray` does.

    Yields:
        What became of each run, as soon as that is known: those with nothing to do come first. What
        is wrong with the output of one run is the `trouble` of its summary, and the others go on.

    Raises:
        LineError: nothing could be begun: no replica starts.
    """
    stop = stop or Stop()
    open_runs = {run.ledger.run_id: OpenRun(run) for run in runs}
    assert len(open_runs) == len(runs), "what comes back is known by the id of its run"
    if any(each.todo for each in open_runs.values()):
        try:
            yield from _finish_those_that_are_over(open_runs, progress)
            for summary in _label_rest(list(open_runs.values()), progress, stop, replicas):
                each = open_runs.get(summary.run_id)
                if each is not None and each.take(summary):
                    progress.add(summary)
                yield from _finish_those_that_are_over(open_runs, progress)
        except KeyboardInterrupt:
            progress.say(f"stopped; {SAME_COMMAND}")
            yield from (_finish(each, progress, interrupted=True) for each in open_runs.values())
            return
    elif len(runs) == 1:
        shards = counted(len(runs[0].shards), "shard")
        progress.say(f"nothing to do: {shards}, all committed")
    yield from (_finish(each, progress, stopped=stop.reason) for each in open_runs.values())


def _label_rest(
    open_runs: Sequence[OpenRun], progress: Progress, stop: Stop, replicas: Replicas | None
) -> Iterator[ShardSummary]:
    if stop.reason:
        progress.say(f"{stop.reason}: {SAME_COMMAND}")
        return
    if replicas is None:  # Ray takes seconds to import, often for nothing
        from workers.cluster import check_address
        from workers.pool import label_on_ray

        check_address()
        replicas = label_on_ray
    fit = [each for each in open_runs if each.todo and each.begin(progress)]
    if not fit:
        return
    todo = Packed(Errand(each.run_id, shard) for each in fit for shard in each.todo)
    prospects = Prospects()
    summaries = replicas(todo, fit[0].run.settings, partial(_assign_all, fit), progress, stop)
    records = _count_records(each.shard for each in todo)
    only = fit[0].run_id if len(fit) == 1 else None
    with (
        progress.only_about(only),
        progress.running(len(todo), records),
        closing(summaries),
    ):
        for summary in summaries:
            if summary.not_begun:  # left for the next start, as what no replica took
                continue
            yield summary
            left = {each.run_id for each in fit if not each.is_over}
            if prospects.are_gone_after(summary, left):
                progress.say("the run ends here: the other shards would fail like this one")
                return
    if stop.reason:
        progress.say(f"{stop.reason}: {SAME_COMMAND}")


def _count_records(shards: Iterable[Shard]) -> int | None:
    """In all of the shards; None when one is a whole file, whose records nobody has counted."""
    counts = array("q", (shard.count for shard in shards))
    return sum(counts) if min(counts) >= 0 else None


def _assign_all(open_runs: Sequence[OpenRun]) -> list[Assignment]:
    """Those of runs whose lists can be stored."""
    assignments = []
    for each in open_runs:
        try:
            assignments.append(each.assign())
        except ITS_OWN as error:
            each.trouble = error
    return assignments


def _finish_those_that_are_over(
    open_runs: dict[str, OpenRun], progress: Progress
) -> Iterator[RunSummary]:
    for each in [each for each in open_runs.values() if each.is_over]:
        yield _finish(open_runs.pop(each.run_id), progress)


def _finish(
    each: OpenRun, progress: Progress, *, interrupted: bool = False, stopped: str = ""
) -> RunSummary:
    run, tally = each.run, each.tally
    sums: Manifest | Tally = tally
    try:
        if each.trouble is not None:
            raise each.trouble
        failures = _not_committed(each, f"{NOT_REACHED}: {stopped}" if stopped else NOT_REACHED)
        sums = tally if failures else _write_manifest(run)
    except ITS_OWN as error:
        each.trouble = error
        done = run.committed | each.done
        failures = dict.fromkeys(_not_among(done, run), f"{error}")
    return RunSummary(
        run_id=run.ledger.run_id,
        output=run.ledger.output,
        shards=len(run.shards),
        found_committed=len(run.committed),
        counts=dict(sums.counts),
        errors=dict(sums.errors),
        targets=sums.targets,
        reused=tally.reused,
        seconds=time.monotonic() - each.started,
        pace=progress.pace,
        at_once=tally.at_once,
        failures=failures,
        records=tally.records,
        asked=sum(tally.counts.values()) - tally.reused,
        replicas=progress.replicas,
        records_per_second=progress.tally.records / max(progress.seconds, 1e-9),
        interrupted=interrupted,
        stopped=stopped if failures else "",
        trouble=each.trouble,
    )


def _not_committed(each: OpenRun, not_reached: str) -> dict[str, str]:
    """Shards of the plan that are not committed, and why; counts in those nobody told of."""
    committed = each.run.ledger.committed_ids() & each.run.shard_ids
    failures = {
        shard_id: each.tally.failures.get((each.run_id, shard_id), not_reached)
        for shard_id in _not_among(committed, each.run)
    }
    if failures:
        _count_unheard(each, committed)
    return failures


def _not_among(done: Set[str], run: Run) -> Iterator[str]:
    """In the order of the plan."""
    return (shard.shard_id for shard in run.shards if shard.shard_id not in done)


def _write_manifest(run: Run) -> Manifest:
    return finish_run(
        run.ledger,
        run.shard_ids,
        planned_at=run.planned_at,
        source=run.settings.input,
        settings_digest=run.request,
        fingerprint=run.identity.label_fingerprint,
        model_sha256=run.identity.model_sha256,
        adapter_sha256=run.identity.adapter_sha256 or "",
    )


def _count_unheard(each: OpenRun, committed: Set[str]) -> None:
    """Counts in what replicas committed in this start and could not tell any more."""
    run = each.run
    for shard_id in sorted(committed - run.committed - each.done):
        if (commit := run.ledger.get(shard_id)) is not None:
            each.tally.add_committed(commit)
