"""Numbers and pictures on their way to a device; a GPU is not waited for.

An ordinary copy to a GPU begins when the GPU has done all that it was asked, and Python waits for
that. A copy from pinned memory takes its place among the work, and torch keeps the memory until it
is done.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def send_stacked(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Tensors of the host on a device, as one."""
    if device.type != "cuda":
        return torch.stack(list(tensors)).to(device)
    shape = (len(tensors), *tensors[0].shape)
    pinned = torch.empty(shape, dtype=tensors[0].dtype, pin_memory=True)
    return torch.stack(list(tensors), out=pinned).to(device, non_blocking=True)
