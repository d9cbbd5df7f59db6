"""What the settings leave open about GPUs and precision, decided once for all machines of a run."""

import os
from typing import TypeVar

import torch

from workers.errors import SettingsError
from workers.settings import LabelSettings

S = TypeVar("S", bound=LabelSettings)


def settle_hardware(settings: S) -> S:
    """Decides what the settings leave open about GPUs and precision, for all machines of the run.

    The precision is part of the fingerprint, so it must not depend on where a worker happens to be.

    Raises:
        SettingsError: this machine is to do it alone, and has not the GPUs that are asked for.
    """
    here = torch.cuda.device_count()
    gpus = settings.num_gpus_per_replica
    if gpus is None:
        gpus = 1.0 if here else 0.0
    if gpus > here and not os.environ.get("RAY_ADDRESS"):
        raise SettingsError(
            f"--num-gpus-per-replica {gpus:g}: this machine has {here}. Give fewer, or let a Ray "
            "cluster do it (RAY_ADDRESS, or `ray job submit`)"
        )
    precision = settings.replica.precision
    if precision == "auto":
        precision = "bf16" if gpus else "fp32"
    replica = settings.replica.model_copy(update={"precision": precision})
    return settings.model_copy(update={"num_gpus_per_replica": gpus, "replica": replica})
