"""Where a worker begins: weights with their optimiser, data, and the newest state of both."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pixellm.checkpoints import Checkpoint
from pixellm.loop import Loop
from pixellm.peers import Peers
from pixellm.training import TrainingBatch
from pixellm.tuning import TunedModel
from workers.errors import SettingsError
from workers.storage.objects import Store
from workers.storage.uris import shown
from workers.training.batches import BatchMaker
from workers.training.examples import Split
from workers.training.feed import Feed
from workers.training.learner import Learner
from workers.training.mixing import Mix
from workers.training.parallel import Together, share
from workers.training.plan import TrainPlan
from workers.training.progress import Progress
from workers.training.reading import ExampleStream
from workers.training.states import States
from workers.wording import Say, to_nobody


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What a worker has at hand."""

    checkpoint: Checkpoint
    store: Store
    states: States
    peers: Peers
    folder: Path | None = None
    """of the model that learns, on this machine"""
    say: Say = field(default=to_nobody)
    """takes lines for the user"""


def start_loop(plan: TrainPlan, tuned: TunedModel, peers: Peers) -> Loop[TrainingBatch]:
    """The weights with their optimiser, before the first step."""
    model = tuned.model
    if plan.recompute:
        model.language.model.activation_checkpointing_enable()
    learner: nn.Module = Learner(model, plan.losses)
    if isinstance(peers, Together):
        layers = [*model.language.model.layers, *model.vision.clip.encoder.layers]
        learner = share(learner, layers, plan.parallel)
    return Loop(learner, tuned.trained(), plan.schedule, peers, _precision_of(plan, model.device))


def start_feed(plan: TrainPlan, bench: Bench, before: Progress | None) -> Feed:
    """This worker's batches, from where the run has come to, or from the beginning."""
    position = before.data if before else None
    seed, split = plan.schedule.seed, Split("train", plan.held_out) if plan.held_out else None
    # what was being learned from, whatever has been labelled meanwhile
    runs = position.runs if position else [()] * len(plan.data)
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
    maker = BatchMaker.for_model(
        model.config, tokenizer, bench.store, views=plan.views, order=plan.order
    )
    rank, world = bench.peers.rank, bench.peers.world
    mix = Mix(streams, seed=seed)
    feed = Feed(mix, maker, plan.per_worker, rank, world, plan.accumulate, position=position)
    feed.counts += Counter(before.passed_over if before else {})
    return feed


def go_on(plan: TrainPlan, loop: Loop[Any], bench: Bench) -> Progress | None:
    """Brings the loop to the newest state.

    Returns:
        How far the run is; None where it has no state.

    Raises:
        SettingsError: it is a state of another run.
    """
    found = bench.states.newest()
    if found is None:
        return None
    before = Progress.from_json(found.rest)
    if before.model != bench.checkpoint.sha256:
        raise SettingsError(
            f"--output {shown(plan.output)} holds a training run of another model, at step"
            f" {found.step:,}. Give another output, or the model that it began with to go on"
        )
    if before.plan != plan.digest:
        raise SettingsError(
            f"--output {shown(plan.output)} holds a training run with other settings or other data,"
            f" at step {found.step:,}. Give another output, or the same settings to go on"
        )
    loop.restore(found.tensors, before.loop)
    bench.say(f"going on from step {loop.step:,} of {plan.schedule.steps:,}")
    return before


def _precision_of(
    plan: TrainPlan, device: torch.device
) -> Callable[[], AbstractContextManager[Any]]:
    if plan.precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)
