r"""The whole way of one training worker, without Ray: this screen is the architecture of training.

    model -> start: weights, data -> steps -> states -> result: the last weights, or the best
                                        \-> metrics, scores on held-out rows

All workers do the same with other rows of the same batches. The first of them writes, and speaks.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from pixellm.checkpoints import load_checkpoint
from pixellm.errors import TrainingDiverged
from pixellm.loop import Loop, StepReport
from pixellm.peers import Peers
from pixellm.training import TrainingBatch
from pixellm.tuning import TunedModel
from workers.errors import SettingsError
from workers.storage.stores import Anywhere
from workers.storage.uris import shown
from workers.training.board import Board
from workers.training.claims import claimed
from workers.training.evaluation import Evaluation, Graded
from workers.training.feed import FeedPosition
from workers.training.learner import to_device
from workers.training.metrics import Measured, Metrics
from workers.training.plan import TrainPlan
from workers.training.progress import Progress
from workers.training.results import write_result
from workers.training.start import Bench, go_on, start_feed, start_loop
from workers.training.states import States
from workers.training.validation import Validation, start_validation
from workers.wording import Say

Hear = Callable[[StepReport | Evaluation], None]
TOLD_EVERY = 10
"""Steps between two lines."""


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What a run has come to."""

    tuned: TunedModel
    """with the weights that are its result"""
    graded: Graded | None
    """their scores, if they are known"""


def work(plan: TrainPlan, folder: Path, device: torch.device, peers: Peers, say: Say) -> str:
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
        SettingsError: there is nothing to learn from, the output is that of another run, or
            TensorBoard is asked for and not there.
        CheckpointError: the model can't be used.
        CommitError, StorageError: a label table or the output can't be read, or not written.
    """
    board = Board(Path(plan.tensorboard)) if plan.tensorboard and peers.rank == 0 else None
    if device.index is not None:
        torch.cuda.set_device(device)  # whose memory is measured, and through which objects go
    checkpoint = load_checkpoint(folder, device=device)
    store = Anywhere()
    states = States(store, plan.output, say)
    if (rises := plan.schedule.warm_up) >= plan.schedule.steps:
        said = f"the rate rises for {rises:,} steps (--warm-up), and there are no more"
        say(f"{said} than {plan.schedule.steps:,}: it never comes to {plan.schedule.rate:g}")
    bench = Bench(checkpoint, store, states, peers, folder, say)
    examples = plan.per_worker * plan.accumulate * peers.world
    metrics = Metrics(store, plan.output, examples, board=board)

    def hear(event: StepReport | Evaluation) -> None:
        last = event.step == plan.schedule.steps
        if isinstance(event, Evaluation):
            metrics.note_scores(event)
            say(f"{event}")
        else:
            measured = metrics.note(event)
            if event.step % TOLD_EVERY == 0 or last:
                say(_describe(event, plan, measured))
        if peers.rank == 0 and (event.step % plan.save_every == 0 or last):
            metrics.write()

    learned = train(plan, bench, hear)
    return write_result(learned.tuned, plan, bench, learned.graded)


def train(plan: TrainPlan, bench: Bench, hear: Hear) -> Learned:
    """Learns, from the newest state of the output on, and returns what was learned.

    Args:
        plan: of the run.
        bench: what this worker has at hand.
        hear: is told of every step, and of every evaluation after its step, on every worker.

    Raises:
        TrainingDiverged: a loss is no number, or far from those before; the newest state stays.
        SettingsError: there is nothing to learn from, or the output is that of another run.
        CommitError, StorageError: a label table or the output can't be read, or not written.
    """
    tuned = TunedModel(bench.checkpoint.model.train(), plan.tuning, plan.schedule.seed)
    loop = start_loop(plan, tuned, bench.peers)
    before = go_on(plan, loop, bench)
    feed, validation = start_feed(plan, bench, before), start_validation(plan, bench, before)
    device = bench.checkpoint.model.device
    batches = iter(feed)
    # of workers that have nothing to learn, one may be gone before another claims anything
    with nullcontext() if loop.done else _alone_in_output(plan, bench, before):
        while not loop.done:
            taken, position = _take(batches, plan.accumulate)
            hear(_learn(loop, [to_device(each, device) for each in taken], bench.peers))
            if validation and validation.is_due(loop.step):
                hear(validation.evaluate(tuned, loop))
            if loop.step % plan.save_every == 0 or loop.done:
                save(plan, loop, position, bench, feed.counts, validation)
    if validation and validation.is_due(loop.step):  # it was done without being scored
        hear(validation.evaluate(tuned, loop))
    loop.take_average()
    return Learned(tuned, validation.finish(tuned) if validation else None)


@contextmanager
def _alone_in_output(plan: TrainPlan, bench: Bench, before: Progress | None) -> Iterator[None]:
    """From here on something is written: what can't begin at all leaves nothing behind."""
    first, model = bench.peers.rank == 0, bench.checkpoint.sha256
    examples = plan.per_worker * plan.accumulate * bench.peers.world
    learned = f"{plan.digest}, {examples} examples a step"
    with claimed(bench.store, plan.output, learned, model, releases=first):
        if before is None and bench.states.steps():
            raise SettingsError(
                f"another training run has begun in --output {shown(plan.output)} meanwhile. Give"
                " another output, or start again to go on with it, if it is the same"
            )
        yield


def save(
    plan: TrainPlan,
    loop: Loop[Any],
    position: FeedPosition,
    bench: Bench,
    passed_over: Counter[str],
    validation: Validation | None = None,
) -> None:
    """Keeps a state: all workers gather it, the first one writes."""
    tensors, rest = loop.state()
    if bench.peers.rank == 0:
        progress = Progress(
            plan=plan.digest,
            model=bench.checkpoint.sha256,
            loop=rest,
            data=position,
            passed_over=passed_over,
            evaluations=tuple(validation.history) if validation else (),
            validation=validation.runs if validation else {},
        )
        bench.states.save(loop.step, tensors, progress.to_json())


def _learn(loop: Loop[TrainingBatch], batches: list[TrainingBatch], peers: Peers) -> StepReport:
    """A step; an error names the rows of the batch that it came of, whichever worker had it.

    Where all losses are as usual, and the gradient of the step is no number, those of the step.
    """
    try:
        return loop.learn(batches)
    except TrainingDiverged as error:
        own = () if error.batch is None else batches[error.batch].names
        every = tuple(name for batch in batches for name in batch.names)
        # all are here, since all have the same losses; the first of their messages is told
        gathered = peers.gather((own, every))
        named = [name for some, _ in gathered for name in some]
        whose = "its rows are" if named else "the step's rows are"
        names = named or [name for _, some in gathered for name in some]
        raise TrainingDiverged(f"{error}; {whose} {', '.join(names)}", batch=error.batch) from error


def _take(
    batches: Iterator[tuple[TrainingBatch, FeedPosition]], count: int
) -> tuple[list[TrainingBatch], FeedPosition]:
    pairs = list(islice(batches, count))
    return [batch for batch, _ in pairs], pairs[-1][1]


def _describe(report: StepReport, plan: TrainPlan, measured: Measured) -> str:
    parts = ", ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
    pace, memory = measured.examples_per_s, measured.gpu_gb
    speed = "" if pace is None else f"; {pace:.1f} examples/s"
    speed += "" if memory is None else f"; {memory:.1f} GB of the GPU"
    return (
        f"step {report.step:,} of {plan.schedule.steps:,}: loss {report.total:.3f} ({parts}), rate"
        f" {report.rate:.2g}{speed}"
    )
