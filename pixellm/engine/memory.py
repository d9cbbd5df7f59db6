"""How much memory the engine may use, and what is told when it was not enough."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pixellm.errors import ConfigError

GPU_SHARE = 0.6
"""Of a GPU's free memory, for keys and values; images, masks and steps need the rest."""
CPU_SHARE = 0.1
"""Of all memory of a machine, which other replicas share. Not of what is free: a machine that has
read much counts its file cache as taken."""

TORCH_SAYS = (
    "allocate memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Triton Error [CUDA]: out of memory",
)
"""How it is said of a machine's memory, and of a GPU's where torch's allocator wasn't asked."""
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""What a container may use, on Linux: cgroups version 2, and 1."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine may use.

    Raises:
        ConfigError: no question could be under way.
    """

    rows: float = math.inf
    """Most questions under way at once; by default memory alone decides."""
    slot_bytes: float = math.inf
    """Most memory for keys and values; the first question under way gets what it needs."""

    def __post_init__(self) -> None:
        if not self.rows >= 1:
            raise ConfigError(f"{self.rows} questions under way at most: at least 1 must be")

    @classmethod
    def of_device(
        cls, device: torch.device, rows: float = math.inf, share: float = 1.0
    ) -> "Limits":
        """What is right for a device that a model has been loaded into.

        Args:
            device: of the model.
            rows: most questions under way at once.
            share: of the GPU that is ours; others load their models into the rest.
        """
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            own = share * total - torch.cuda.memory_allocated(device)
            return cls(rows, int(GPU_SHARE * min(free, own)))
        return cls(rows, int(CPU_SHARE * _machine_bytes()))


def _machine_bytes() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = [path.read_text().strip() for path in CGROUP_LIMITS if path.exists()]
    return min([memory, *(int(each) for each in allowed if each.isdecimal())])


def try_in_memory(work: Callable[[], None]) -> str | None:
    """Does something; other errors than a want of memory pass.

    Returns:
        What was said when memory ran out, if it did. Nothing holds the tensors of what failed any
        more: an exception would, with its traceback.
    """
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return f"{error}" or type(error).__name__
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether it is memory that was wanting, of a GPU or of the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in f"{error}" for words in TORCH_SAYS)
