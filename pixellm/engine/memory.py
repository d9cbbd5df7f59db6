"""How much memory the engine may use, and what is told when it was not enough."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

GPU_SHARE = 0.6
"""Of a GPU's free memory, for keys and values; images, masks and steps need the rest."""
CPU_SHARE = 0.1
"""Of all memory of a machine, which other replicas share. Not of what is free: a machine that has
read much counts its file cache as taken."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine may use."""

    rows: float = math.inf
    """Most questions under way at once; by default memory alone decides."""
    slot_bytes: float = math.inf
    """Most memory for keys and values."""

    @classmethod
    def of_device(cls, device: torch.device, rows: float = math.inf) -> "Limits":
        """A share of the memory of a device that a model has been loaded into."""
        if device.type == "cuda":
            return cls(rows, int(GPU_SHARE * torch.cuda.mem_get_info(device)[0]))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(rows, int(CPU_SHARE * memory))


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
        why = f"{error}" or type(error).__name__
    else:
        return None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return why


def is_out_of_memory(error: Exception) -> bool:
    """Whether it is memory that was wanting, of a GPU or of the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "allocate memory" in f"{error}"  # how torch says it of a CPU's
