"""Where `pixellm.kernels` can be used; everywhere else torch does the same in more steps."""

import logging
from functools import cache
from importlib.util import find_spec

import torch

from pixellm.engine.memory import is_out_of_memory

NARROWEST = 16
"""Heads of fewer dimensions are too narrow for tensor cores."""

MOST_TOGETHER = 4
"""Rows that a program of a kernel answers at most: more gained little on an H100."""

_log = logging.getLogger(__name__)


def kernels_fit(
    device: torch.device, width: int = NARROWEST, dtype: torch.dtype = torch.float32
) -> bool:
    """Whether kernels run on a device, for heads of so many dimensions where they matter."""
    if device.type != "cuda" or width < NARROWEST or width & (width - 1):
        return False
    try:
        why = why_no_kernels(device, width, dtype)
    except (RuntimeError, MemoryError):  # of memory, which there may be when it is asked again
        return False
    if why is not None:
        _tell(why)
    return why is None


@cache
def why_no_kernels(device: torch.device, width: int, dtype: torch.dtype) -> str | None:
    """What keeps a GPU from having kernels for such heads; None: it has them.

    Raises:
        RuntimeError, MemoryError: memory was wanting to try them.
    """
    if find_spec("triton") is None:
        return "Triton is not installed; torch's builds for CUDA bring it on Linux"
    try:
        _try_them(device, width, dtype)
    except Exception as error:  # whatever Triton raises: there is another way
        if isinstance(error, (RuntimeError, MemoryError)) and is_out_of_memory(error):
            raise  # what is raised is not remembered
        return (
            "kernels can't be compiled and run here; Triton takes a C compiler (gcc), Python's"
            f" headers and a GPU that it knows: {type(error).__name__}: {error}".rstrip(": ")
        )
    return None


@cache
def _tell(why: str) -> None:
    """Once, and not for every kind of heads."""
    _log.warning("the language model has no kernels of its own, and runs slower: %s", why)


def _try_them(device: torch.device, width: int, dtype: torch.dtype) -> None:
    """Runs each once, with as much at once as ever: a GPU may have too little room for it."""
    from pixellm.kernels import MOST, attend_rows, gate_, keep, rotate_  # needs Triton

    asked = torch.zeros(1, MOST, 1, width, dtype=dtype, device=device)
    places = torch.arange(MOST, device=device)
    row, slots = torch.zeros_like(places), asked.view(1, 1, MOST, width)
    rotate_(asked, asked[:, :, 0].clone(), asked[:, :, 0].clone())
    gate_(asked, asked)
    keep((asked[0], asked[0]), (slots.clone(), slots.clone()), row, places)
    prefix = slots, slots, slots[:, 0, :, 0]
    rest = prefix, (slots, slots), (row, places, row), 1.0
    attend_rows(asked[0], asked[0].clone(), MOST, *rest)
    attend_rows(asked[0], asked[0].clone(), 1, *rest, order=places, together=MOST_TOGETHER)
    torch.cuda.synchronize(device)
