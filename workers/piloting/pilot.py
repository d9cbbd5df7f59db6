"""A pilot: some shards of a run, chosen at random, are labelled as the run would label them."""

import random
from dataclasses import replace

from workers.driver import Replicas, label_run
from workers.errors import LineError
from workers.piloting.estimate import Estimate, count_records
from workers.piloting.progress import PilotProgress
from workers.piloting.rates import Range, rate_of
from workers.piloting.settings import PlanSettings
from workers.runs import Run
from workers.stopping import Stop
from workers.wording import counted

SHORT_SECONDS = 20.0
"""Of a pilot whose rate says little: batches were filling and draining for most of it."""


def choose_shards(run: Run, count: int, seed: int) -> frozenset[str]:
    """Ids of shards that are to do, at random, and the same for the same seed."""
    todo = sorted(shard.shard_id for shard in run.todo)
    return frozenset(random.Random(seed).sample(todo, min(count, len(todo))))


def make_pilot(
    run: Run,
    settings: PlanSettings,
    progress: PilotProgress,
    stop: Stop | None = None,
    replicas: Replicas | None = None,
) -> Estimate:
    """Labels the pilot and works out what the whole run will take.

    Args:
        run: from `plan_run`, with something to do.
        settings: of the plan.
        progress: hears of all that happens.
        stop: see `workers.driver.label_runs`.
        replicas: likewise.

    Raises:
        LineError: nothing was labelled, or too little to say anything.
    """
    chosen = choose_shards(run, settings.pilot_shards, settings.seed)
    progress.say(f"a pilot of {counted(len(chosen), 'shard')} out of {len(run.todo):,} to do")
    summary = label_run(replace(run, only=chosen), progress, stop, replicas)
    rate = rate_of(progress.heard)
    if rate is None or not summary.records:
        failed = (summary.failures[each] for each in chosen if each in summary.failures)
        why = next(failed, "it was over before a replica said a word")
        raise LineError(f"the pilot says nothing: {why}. Give more --pilot-shards.")
    if progress.heard[-1][0] - progress.ready < SHORT_SECONDS:
        progress.say(f"a pilot of less than {SHORT_SECONDS:.0f} s says little: --pilot-shards more")
    replica_count = settings.replicas or settings.max_replicas or max(1, summary.replicas)
    estimate = _extrapolate(run, settings, progress, rate, replica_count)
    estimate.save(run.ledger.store, run.ledger.output)
    return estimate


def _extrapolate(
    run: Run, settings: PlanSettings, progress: PilotProgress, rate: Range, replicas: int
) -> Estimate:
    """From what the pilot has read to what there is to read, and to what is left of it."""
    done = run.committed | run.ledger.committed_ids()
    counts = progress.records
    read = [(each, counts[each.shard_id]) for each in run.shards if each.shard_id in counts]
    return Estimate(
        run_id=run.ledger.run_id,
        records=count_records(run.shards, read),
        left=count_records([each for each in run.shards if each.shard_id not in done], read),
        rate=rate,
        start_seconds=progress.ready - progress.began,
        replicas=replicas,
        gpus=settings.num_gpus_per_replica or 0.0,
        cpus=settings.replica.num_cpus or 0,
    )
