"""What the settings leave open about GPUs and precision, decided once for all machines of a run."""

import torch

from workers.settings import LabelSettings


def settle_hardware(settings: LabelSettings) -> LabelSettings:
    """Decides what the settings leave open about GPUs and precision, for all machines of the run.

    The precision is part of the fingerprint, so it must not depend on where a worker happens to be.
    """
    gpus = settings.num_gpus_per_replica
    if gpus is None:
        gpus = 1.0 if torch.cuda.is_available() else 0.0
    precision = settings.replica.precision
    if precision == "auto":
        precision = "bf16" if gpus else "fp32"
    replica = settings.replica.model_copy(update={"precision": precision})
    return settings.model_copy(update={"num_gpus_per_replica": gpus, "replica": replica})
