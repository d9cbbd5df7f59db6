"""A training run from its beginning to its end, on this machine.

model -> worker (steps, states, metrics) -> OUTPUT/model
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from pixellm.checkpoints import Checkpoint, load_checkpoint
from pixellm.loop import Alone, StepReport
from pixellm.tuning import TunedModel
from workers.labels.commits import now
from workers.model_files import fetch_model
from workers.storage.objects import Store
from workers.storage.stores import Anywhere
from workers.storage.uris import join_uri, shown
from workers.training.metrics import Metrics
from workers.training.plan import TrainPlan
from workers.training.settings import TrainSettings
from workers.training.states import States
from workers.training.worker import Bench, train
from workers.version import code_version

Say = Callable[[str], None]
MODEL, CARD = "model", "training.json"
"""Folder of the result, and in it the file that says where it comes from."""
TOLD_EVERY = 10
"""Steps between two lines."""


def run_training(settings: TrainSettings, say: Say) -> str:
    """Trains, and writes the model folder.

    Args:
        settings: of the run.
        say: takes lines for the user.

    Returns:
        Where the model lies.

    Raises:
        TrainingDiverged: a loss is no number, or far from those before; the newest state stays.
        SettingsError: there is nothing to learn from, or the output is that of another run.
        CheckpointError: the model can't be used.
        CommitError, StorageError: a label table or the output can't be read, or not written.
    """
    plan, store = settings.plan, Anywhere()
    say(f"loading {shown(plan.model)}")
    folder = fetch_model(plan.model, settings.model_cache.expanduser())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = load_checkpoint(folder, device=device)
    metrics = Metrics(store, plan.output, plan.per_worker * plan.accumulate)
    states = States(store, plan.output, say)
    if begun := states.steps():
        say(f"going on from step {begun[0]:,} of {plan.schedule.steps:,}")

    def hear(report: StepReport) -> None:
        pace = metrics.note(report)
        if report.step % TOLD_EVERY == 0 or report.step == plan.schedule.steps:
            say(_describe(report, plan, pace))
        if report.step % plan.save_every == 0 or report.step == plan.schedule.steps:
            metrics.write()

    tuned = train(plan, Bench(checkpoint, store, states, Alone(), hear))
    return _write_model(tuned, checkpoint, plan, store)


def _describe(report: StepReport, plan: TrainPlan, pace: float | None) -> str:
    parts = ", ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
    speed = "" if pace is None else f"; {pace:.1f} examples/s"
    return (
        f"step {report.step:,} of {plan.schedule.steps:,}: loss {report.total:.3f} ({parts}), rate"
        f" {report.rate:.2g}{speed}"
    )


def _write_model(tuned: TunedModel, checkpoint: Checkpoint, plan: TrainPlan, store: Store) -> str:
    place = join_uri(plan.output, MODEL)
    card = {
        "trained_from": plan.model,
        "trained_from_sha256": checkpoint.sha256,
        "plan": asdict(plan),
        "finished_at": now(),
        "code_version": code_version(),
    }
    with tempfile.TemporaryDirectory(prefix="train-") as name:
        folder = Path(name)
        tuned.save_merged(checkpoint.tokenizer, folder)
        text = json.dumps(card, indent=2, sort_keys=True) + "\n"
        (folder / CARD).write_text(text, encoding="utf-8")
        # weights last: a folder without them is no model
        for path in sorted(folder.iterdir(), key=lambda each: each.suffix == ".safetensors"):
            store.put(join_uri(place, path.name), path.read_bytes())
    return place
