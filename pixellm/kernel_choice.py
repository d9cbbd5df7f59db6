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
def _work_on(device: torch.device) -> bool:
    """Whether they do: Triton must be there, and what it needs to compile them (a C compiler)."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        _try_them(device)
    except Exception as error:  # whatever Triton raises: there is another way
        _log.warning(
            "Triton can't compile kernels here, so the language model runs slower without them; "
            "the image needs a C compiler (gcc) and a GPU that Triton knows: %s",
            f"{error}".strip() or type(error).__name__,
        )
        return False
    return True


def _try_them(device: torch.device) -> None:
    from pixellm.kernels import rotate_  # needs Triton

    states, angles = torch.zeros(1, 1, NARROWEST, device=device), torch.ones(1, 1, NARROWEST)
    rotate_(states, angles.to(device), angles.to(device))
    torch.cuda.synchronize(device)
