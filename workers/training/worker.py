r"""The whole way of one training worker, without Ray: this screen is the architecture of training.

    model -> start: weights, data -> steps -> states -> result
                                        \-> metrics

All workers do the same with other rows of the same batches. The first of them writes, and speaks.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from pixellm.checkpoints import load_checkpoint
from pixellm.errors import TrainingDiverged
from pixellm.loop import Alone, Loop, StepReport
from pixellm.training import TrainingBatch
from pixellm.tuning import TunedModel
from workers.storage.stores import Anywhere
from workers.training.feed import State
from workers.training.learner import to_device
from workers.training.metrics import Metrics
from workers.training.parallel import Together
from workers.training.plan import TrainPlan
from workers.training.results import write_result
from workers.training.start import Bench, go_on, start_feed, start_loop
from workers.training.states import States

Say = Callable[[str], None]
Hear = Callable[[StepReport], None]
TOLD_EVERY = 10
"""Steps between two lines."""


def work(
    plan: TrainPlan, folder: Path, device: torch.device, peers: Alone | Together, say: Say
) -> str:
    """Trains, and writes what was learned.

    Args:
        plan: of the run, the same on all workers.
        folder: of the model, on this machine.
        device: to learn on.
        peers: who learns with this worker.
        say: takes lines for the user, of the first worker.

    Returns:
        Where it lies.

    Raises:
        TrainingDiverged: a loss is no number, or far from those before; the newest state stays.
        SettingsError: there is nothing to learn from, or the output is that of another run.
        CheckpointError: the model can't be used.
        CommitError, StorageError: a label table or the output can't be read, or not written.
    """
    checkpoint = load_checkpoint(folder, device=device)
    store = Anywhere()
    states = States(store, plan.output, say)
    if begun := states.steps():
        say(f"going on from step {begun[0]:,} of {plan.schedule.steps:,}")
    bench = Bench(checkpoint, store, states, peers, folder)
    metrics = Metrics(store, plan.output, plan.per_worker * plan.accumulate * peers.world)

    def hear(report: StepReport) -> None:
        pace, last = metrics.note(report), report.step == plan.schedule.steps
        if report.step % TOLD_EVERY == 0 or last:
            say(_describe(report, plan, pace))
        if peers.rank == 0 and (report.step % plan.save_every == 0 or last):
            metrics.write()

    return write_result(train(plan, bench, hear), plan, bench)


def train(plan: TrainPlan, bench: Bench, hear: Hear) -> TunedModel:
    """Learns, from the newest state of the output on, and returns what was learned.

    Args:
        plan: of the run.
        bench: what this worker has at hand.
        hear: is told of every step, on every worker.

    Raises:
        TrainingDiverged: a loss is no number, or far from those before; the newest state stays.
        SettingsError: there is nothing to learn from, or the output is that of another run.
        CommitError, StorageError: a label table or the output can't be read, or not written.
    """
    tuned = TunedModel(bench.checkpoint.model.train(), plan.tuning, plan.schedule.seed)
    loop = start_loop(plan, tuned, bench.peers)
    feed = start_feed(plan, bench, go_on(plan, loop, bench))
    device = bench.checkpoint.model.device
    batches = iter(feed)
    while not loop.done:
        taken, position = _take(batches, plan.accumulate)
        hear(_learn(loop, [to_device(each, device) for each in taken]))
        if loop.step % plan.save_every == 0 or loop.done:
            save(plan, loop, position, bench, feed.counts)
    return tuned


def save(
    plan: TrainPlan, loop: Loop[Any], position: State, bench: Bench, passed_over: Counter[str]
) -> None:
    """Keeps a state: all workers gather it, the first one writes."""
    tensors, rest = loop.state()
    if bench.peers.rank == 0:
        whole = {
            "plan": plan.digest,
            "model": bench.checkpoint.sha256,
            "loop": rest,
            "data": position.to_json(),
            "passed_over": dict(passed_over),
        }
        bench.states.save(loop.step, tensors, whole)


def _learn(loop: Loop[TrainingBatch], batches: list[TrainingBatch]) -> StepReport:
    """A step; an error names the rows that it came of, if it was one batch of this worker."""
    try:
        return loop.learn(batches)
    except TrainingDiverged as error:
        if error.batch is None:
            raise
        names = ", ".join(batches[error.batch].names)
        raise TrainingDiverged(f"{error}; its rows are {names}", batch=error.batch) from error


def _take(
    batches: Iterator[tuple[TrainingBatch, State]], count: int
) -> tuple[list[TrainingBatch], State]:
    pairs = list(islice(batches, count))
    return [batch for batch, _ in pairs], pairs[-1][1]


def _describe(report: StepReport, plan: TrainPlan, pace: float | None) -> str:
    parts = ", ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
    speed = "" if pace is None else f"; {pace:.1f} examples/s"
    return (
        f"step {report.step:,} of {plan.schedule.steps:,}: loss {report.total:.3f} ({parts}), rate"
        f" {report.rate:.2g}{speed}"
    )
