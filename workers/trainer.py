"""A training run from its beginning to its end: here, or by workers on Ray.

model folder -> worker (start, steps, states, metrics) -> OUTPUT/model or OUTPUT/adapter
"""

import torch

from pixellm.peers import Alone
from workers.drawn.settings import DrawnSettings
from workers.drawn.training import DrawnTraining
from workers.model_folders import fetch_model
from workers.storage.stores import Anywhere
from workers.storage.uris import shown
from workers.training.settings import TrainSettings
from workers.training.worker import work
from workers.wording import Say


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
    plan, cache = settings.plan, settings.model_cache.expanduser()
    if settings.num_workers:
        from workers.worker_group import Group, train_in_group  # Ray takes seconds to import

        return train_in_group(plan, cache, Group(settings.num_workers, settings.cpus), say)
    say(f"loading {shown(plan.model)}")
    folder = fetch_model(plan.model, cache)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return work(plan, folder, device, Alone(), say)


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
        StorageError: the output can't be read or written.
    """
    torch.set_num_threads(settings.threads)
    cache = settings.cache.expanduser()
    return DrawnTraining(settings.plan, cache, Anywhere(), Alone(), say).run()
