"""Workers that learn together: each has some of the batches, and all have the same gradients.

ddp    each holds the whole model
fsdp   each holds a part of every weight (FSDP2), and gets the others while it needs them
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, TypeVar, cast

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from pixellm.peers import Peers

ParallelKind = Literal["ddp", "fsdp"]
Value = TypeVar("Value")


def share(
    learner: nn.Module, layers: list[nn.Module], kind: ParallelKind, *, some_idle: bool = False
) -> nn.Module:
    """Makes a module one that learns with those of the other workers.

    Args:
        learner: called with a batch. With `fsdp` its weights are changed in place to parts.
        layers: of it, that hold most of the weights: FSDP gathers one after the other.
        kind: how.
        some_idle: whether some of its weights take no part in some losses; only for `ddp`, which
            else waits for their gradients.
    """
    if kind == "ddp":
        return DistributedDataParallel(learner, find_unused_parameters=some_idle)
    for layer in layers:
        fully_shard(layer)
    fully_shard(learner)
    return learner


class Together(Peers):
    """All workers of the process group that `torch.distributed` knows."""

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""
        return dist.get_rank()

    @property
    def world(self) -> int:
        """How many there are."""
        return dist.get_world_size()

    def mean(self, values: Tensor) -> Tensor:
        """Of a value of each; the same for all, to the last bit."""
        shared = values.clone()
        dist.all_reduce(shared)
        return shared / self.world

    def apart(self, learner: nn.Module) -> AbstractContextManager[object]:
        """Within it, gradients are added up and not shared yet."""
        if isinstance(learner, DistributedDataParallel):
            return cast(AbstractContextManager[object], learner.no_sync())
        return _unsynced(learner) if isinstance(learner, FSDPModule) else nullcontext()

    def gather(self, value: Value) -> list[Value]:
        """What each of them gives, in the order of their ranks; all of them must ask."""
        values: list[Value | None] = [None] * self.world
        dist.all_gather_object(values, value)
        return cast(list[Value], values)

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor of which each may hold a part; all of them must ask."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def part_of(self, whole: Tensor, like: Tensor) -> Tensor:
        """What this worker holds of it, if it holds as much as of `like`."""
        if not isinstance(like, DTensor):
            return whole
        return distribute_tensor(whole, like.device_mesh, like.placements)


@contextmanager
def _unsynced(learner: FSDPModule) -> Iterator[None]:
    learner.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        learner.set_requires_gradient_sync(True)
