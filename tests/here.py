"""Replicas without Ray: shards are labelled in the process of the test, one after the other."""

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence

from workers.driver import label_runs
from workers.engines import load_engine
from workers.errands import Assignment, Errand, assigned
from workers.labeller import label_shard
from workers.progress import Progress
from workers.runs import Run
from workers.settings import LabelSettings
from workers.stopping import Stop
from workers.summaries import RunSummary, ShardSummary
from workers.workbench import lay_out_benches


def replicas_here(
    errands: Sequence[Errand],
    settings: LabelSettings,
    begin: Callable[[], Sequence[Assignment]],
    progress: Progress,
    stop: Stop,
) -> Generator[ShardSummary, None, None]:
    """As `workers.pool.label_on_ray`."""
    assignments = begin()
    if not (errands := assigned(errands, assignments)):
        return
    engine = load_engine(settings, assignments[0].identity)
    benches = lay_out_benches(assignments, engine)
    loop = asyncio.new_event_loop()
    try:
        for errand in errands:
            if stop.reason:
                return
            yield loop.run_until_complete(label_shard(errand.shard, benches[errand.run_id]))
    finally:
        one = next(iter(benches.values()))
        one.model.close(20)
        one.threads.shutdown()
        loop.close()


def label_runs_here(runs: Sequence[Run], progress: Progress, stop: Stop) -> Iterator[RunSummary]:
    """As `workers.driver.label_runs`."""
    return label_runs(runs, progress, stop, replicas_here)
