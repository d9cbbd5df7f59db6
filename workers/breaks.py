"""What breaks a replica, told apart from what a bad sample does."""

import torch

from workers.errors import ReplicaBroken

DEVICE_FAILED = (
    "illegal memory access",
    "unspecified launch failure",
    "device-side assert",
    "illegal instruction",
    "misaligned address",
    "uncorrectable ECC error",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
)
"""How Triton and libraries of NVIDIA say in a plain RuntimeError what torch has an error for."""


def find_break(error: Exception) -> ReplicaBroken | None:
    """A device error spoils the process: every later call would fail, whatever it is about."""
    said = isinstance(error, RuntimeError) and any(words in f"{error}" for words in DEVICE_FAILED)
    if said or isinstance(error, torch.AcceleratorError):
        return ReplicaBroken(f"the device failed: {error}")
    return error if isinstance(error, ReplicaBroken) else None
