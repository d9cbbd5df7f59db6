"""Where `pixellm.kernels` can be used; everywhere else torch does the same in more steps."""

import logging
from functools import cache
from importlib.util import find_spec

import torch

NARROWEST = 16
"""Heads of fewer dimensions are too narrow for tensor cores."""

_log = logging.getLogger(__name__)


def kernels_fit(device: torch.device, width: int = NARROWEST) -> bool:
    """Whether kernels run on a device, for heads of so many dimensions where they matter."""
    return width >= NARROWEST and not width & (width - 1) and _work_on(device)


@cache
def why_no_kernels(device: torch.device) -> str | None:
    """What keeps a GPU from having kernels; None: it has them."""
    if find_spec("triton") is None:
        return "Triton is not installed; torch's builds for CUDA bring it on Linux"
    try:
        _try_them(device)
    except Exception as error:  # whatever Triton raises: there is another way
        return (
            "Triton can't compile here: it takes a C compiler (gcc) and a GPU that it knows: "
            + (f"{error}".strip() or type(error).__name__)
        )
    return None


@cache
def _work_on(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    why = why_no_kernels(device)
    if why is not None:
        _log.warning("the language model has no kernels of its own, and runs slower: %s", why)
    return why is None


def _try_them(device: torch.device) -> None:
    from pixellm.kernels import rotate_  # needs Triton

    states, angles = torch.zeros(1, 1, NARROWEST, device=device), torch.ones(1, 1, NARROWEST)
    rotate_(states, angles.to(device), angles.to(device))
    torch.cuda.synchronize(device)
