"""The engine of a replica: loaded from the model files that the driver has identified.

What is imported here takes seconds and hundreds of MB: a driver does without it.
"""

import math
from typing import Literal

import torch

from pixellm.adapters import load_adapter
from pixellm.checkpoints import check_folder, load_checkpoint
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from workers.errors import SettingsError
from workers.model_files import ModelIdentity, fetch_own_adapter, fetch_own_model
from workers.model_folders import digest_adapter
from workers.settings import LabelSettings
from workers.storage.uris import shown

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def check_model(settings: LabelSettings) -> None:
    """Looks at the small files of the model: what is wrong in them ends a job before it begins.

    Raises:
        SettingsError: there is no such folder.
        CheckpointError, ConfigError: what it holds is no model.
        StorageError: it can't be fetched.
    """
    check_folder(fetch_own_model(settings))


def load_engine(settings: LabelSettings, identity: ModelIdentity) -> Engine:
    """Loads the model, and merges the adapter into it; the driver has identified both.

    Raises:
        SettingsError: this machine has other weights under the same name.
        CheckpointError: the weights don't fit together.
    """
    checkpoint = load_checkpoint(
        fetch_own_model(settings),
        dtype=_DTYPES[settings.replica.precision],
        device="cuda" if settings.num_gpus_per_replica else "cpu",
    )
    if checkpoint.sha256 != identity.model_sha256:
        raise SettingsError(_not_the_drivers("--model", settings.model_place))
    if settings.adapter:
        folder = fetch_own_adapter(settings.adapter, settings)
        if digest_adapter(folder, settings.model_cache) != identity.adapter_sha256:
            raise SettingsError(_not_the_drivers("--adapter", settings.adapter))
        load_adapter(checkpoint.model, folder)
    most = settings.replica.batch_questions or math.inf
    share = settings.num_gpus_per_replica or 1.0
    device, choice = checkpoint.model.device, settings.replica.replay_steps
    limits = Limits.of_device(device, most, share)
    replay = replays_steps(choice, device)
    return Engine(checkpoint, settings.decode_settings, limits, replay=replay)


def replays_steps(choice: Literal["auto", "yes", "no"], device: torch.device) -> bool:
    """Whether steps are recorded and replayed, which only a GPU gains by."""
    return device.type == "cuda" if choice == "auto" else choice == "yes"


def _not_the_drivers(flag: str, place: str) -> str:
    return (
        f"{flag} {shown(place)}: the weights on this machine are not those of the driver. Put the"
        " same files on all machines, or give a place in a bucket."
    )
