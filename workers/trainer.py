"""A training run from its beginning to its end: here, or by workers on Ray.

model folder -> worker (start, steps, states, metrics) -> OUTPUT/model or OUTPUT/adapter
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from pixellm.peers import Alone, Peers
from workers.drawn.plan import DrawnPlan
from workers.drawn.settings import DrawnSettings
from workers.drawn.training import DrawnTraining, count_kept
from workers.model_folders import fetch_model
from workers.storage.stores import Anywhere
from workers.storage.uris import shown
from workers.training.plan import TrainPlan
from workers.training.settings import TrainSettings
from workers.training.states import States
from workers.training.worker import work
from workers.wording import Say

DRAWN_THREADS = 2
"""CPU threads of the small model's training, where it is one process; the shipped one had two."""


def own_device() -> torch.device:
    """Where one process learns that is on its own."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, slots=True)
class FineTuning:
    """A model and label tables in, what it has learned out (`workers.worker_group.Task`)."""

    plan: TrainPlan
    cache: Path
    """folder for models of buckets, on each machine"""
    cache_gib: float | None = None
    """most that they may take there; None: as much as the disk holds"""
    needs_less: str = "a smaller --batch, --recompute and --evaluate-every 0 need less"

    def run(self, device: torch.device, peers: Peers, say: Say) -> str:
        """The whole way of one worker; returns where lies what was learned."""
        say(f"loading {shown(self.plan.model)}")
        folder = fetch_model(self.plan.model, self.cache, self.cache_gib)
        return work(self.plan, folder, device, peers, say)

    def count_kept(self, say: Say) -> int:
        """Steps behind which the run would go on."""
        return next(iter(States(Anywhere(), self.plan.output, say).steps()), 0)


@dataclass(frozen=True, slots=True)
class FromNothing:
    """Drawn scenes in, the small model out (`workers.worker_group.Task`)."""

    plan: DrawnPlan
    cache: Path
    """folder for rendered scenes, on each machine"""
    needs_less: str = "a smaller --batch or --num-workers needs less"

    def run(self, device: torch.device, peers: Peers, say: Say) -> str:
        """The whole way of one worker; returns where the model lies."""
        return DrawnTraining(self.plan, self.cache, Anywhere(), peers, say, device).run()

    def count_kept(self, say: Say) -> int:
        """Steps behind which the run would go on."""
        return count_kept(self.plan, Anywhere(), say)


def run_training(settings: TrainSettings, say: Say) -> str:
    """Trains, and writes what was learned.

    Args:
        settings: of the run.
        say: takes lines for the user.

    Returns:
        Where it lies.

    Raises:
        TrainingDiverged: a loss is no number, or far from those before; the newest state stays.
        SettingsError: there is nothing to learn from, or the output is that of another run.
        LineError: Ray can't be reached, or workers died too often.
        CheckpointError: the model can't be used.
        CommitError, StorageError: a label table or the output can't be read, or not written.
    """
    cache = settings.model_cache.expanduser()
    task = FineTuning(settings.plan, cache, settings.model_cache_gib)
    if settings.num_workers:
        from workers.worker_group import Group, train_in_group  # Ray takes seconds to import

        return train_in_group(task, Group(settings.num_workers, settings.cpus), say)
    return task.run(own_device(), Alone(), say)


def run_recipe(settings: DrawnSettings, say: Say) -> str:
    """Trains the small model of the drawn world from nothing, and writes its folder.

    Args:
        settings: of the run.
        say: takes lines for the user.

    Returns:
        Where the model lies, or its stages, if the last one is not asked for.

    Raises:
        TrainingDiverged: a loss is no number, or far from those before; the newest state stays.
        SettingsError: the output is that of another run, or an earlier stage is missing.
        LineError: Ray can't be reached, or workers died too often.
        StorageError: the output can't be read or written.
    """
    task = FromNothing(settings.plan, settings.cache.expanduser())
    if settings.num_workers:
        from workers.worker_group import Group, train_in_group

        group = Group(settings.num_workers, settings.threads)
        return train_in_group(task, group, say)
    torch.set_num_threads(settings.threads or DRAWN_THREADS)
    return task.run(own_device(), Alone(), say)
