r"""The whole way of one training worker, without Ray: this screen is the architecture of training.

    label tables -> mix -> feed -> batches -> steps -> states
                                                   \-> metrics, weights

All workers do the same with other rows of the same batches. The first of them writes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from pixellm.checkpoints import Checkpoint
from pixellm.errors import TrainingDiverged
from pixellm.loop import Alone, Loop, StepReport
from pixellm.training import TrainingBatch
from pixellm.tuning import TunedModel
from workers.errors import SettingsError
from workers.storage.objects import Store
from workers.training.batches import BatchMaker
from workers.training.examples import Split
from workers.training.feed import Feed, State
from workers.training.learner import Learner, to_device
from workers.training.mixing import Mix
from workers.training.parallel import Together, share
from workers.training.plan import TrainPlan
from workers.training.reading import ExampleStream
from workers.training.states import States

Hear = Callable[[StepReport], None]


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What a worker has at hand."""

    checkpoint: Checkpoint
    store: Store
    states: States
    peers: Alone | Together
    hear: Hear
    """is told of every step, on every worker"""


def train(plan: TrainPlan, bench: Bench) -> TunedModel:
    """Learns, from the newest state of the output on, and returns what was learned.

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
        bench.hear(_learn(loop, [to_device(each, device) for each in taken]))
        if loop.step % plan.save_every == 0 or loop.done:
            save(plan, loop, position, bench)
    return tuned


def start_loop(plan: TrainPlan, tuned: TunedModel, peers: Alone | Together) -> Loop[TrainingBatch]:
    """The weights with their optimiser, before the first step."""
    model = tuned.model
    if plan.recompute:
        model.language.model.activation_checkpointing_enable()
    learner: nn.Module = Learner(model, plan.losses)
    if isinstance(peers, Together):
        layers = [*model.language.model.layers, *model.vision.clip.encoder.layers]
        learner = share(learner, layers, plan.parallel)
    return Loop(learner, tuned.trained(), plan.schedule, peers, _precision_of(plan, model.device))


def start_feed(plan: TrainPlan, bench: Bench, state: State | None) -> Feed:
    """This worker's batches, from a state on."""
    seed, split = plan.schedule.seed, Split("train", plan.held_out) if plan.held_out else None
    # what was being learned from, whatever has been labelled meanwhile
    runs = state.runs if state else [()] * len(plan.data)
    streams = [
        (
            ExampleStream(
                bench.store,
                each.prefix,
                seed=seed,
                train_on=plan.train_on,
                split=split,
                runs=own,
            ),
            each.weight,
        )
        for each, own in zip(plan.data, runs, strict=True)
    ]
    model, tokenizer = bench.checkpoint.model, bench.checkpoint.tokenizer
    maker = BatchMaker.for_model(model.config, tokenizer, bench.store)
    rank, world = bench.peers.rank, bench.peers.world
    mix = Mix(streams, seed=seed)
    return Feed(mix, maker, plan.per_worker, rank, world, plan.accumulate, state=state)


def go_on(plan: TrainPlan, loop: Loop[Any], bench: Bench) -> State | None:
    """Brings the loop to the newest state; returns where the data goes on.

    Raises:
        SettingsError: it is a state of another run.
    """
    found = bench.states.newest()
    if found is None:
        return None
    if found.rest["model"] != bench.checkpoint.sha256:
        raise SettingsError(
            f"--output {plan.output!r} holds a training run of another model, at step"
            f" {found.step:,}. Give another output, or the model that it began with to go on"
        )
    if found.rest["plan"] != plan.digest:
        raise SettingsError(
            f"--output {plan.output!r} holds a training run with other settings or other data, at"
            f" step {found.step:,}. Give another output, or the same settings to go on"
        )
    loop.restore(found.tensors, found.rest["loop"])
    return State.from_json(found.rest["data"])


def save(plan: TrainPlan, loop: Loop[Any], position: State, bench: Bench) -> None:
    """Keeps a state: all workers gather it, the first one writes."""
    tensors, rest = loop.state()
    if bench.peers.rank == 0:
        whole = {
            "plan": plan.digest,
            "model": bench.checkpoint.sha256,
            "loop": rest,
            "data": position.to_json(),
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


def _precision_of(
    plan: TrainPlan, device: torch.device
) -> Callable[[], AbstractContextManager[Any]]:
    if plan.precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)
