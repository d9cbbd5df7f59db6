"""Steps that are alike are recorded once and replayed: a GPU needn't wait for Python to launch it.

So is what reads a few new questions or pictures. On CUDA a recording is a graph, whose kernels read
and write the same memory each time: a plan is copied into the tensors that the graph was recorded
with. Elsewhere nothing is recorded, and a plan runs on those tensors as it would on its own.
"""

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pixellm.engine.memory import is_out_of_memory
from pixellm.engine.slots import Slots
from pixellm.language import LanguageModel

MOST = 64
"""Recordings that are kept; the memory between their kernels is shared by all of them."""
TOKENS_ALIKE = 1024
"""Of questions or pictures that come in together, padding counted. More of them keep a GPU busy for
longer than Python takes to launch its work: nothing would be won by a recording."""

_log = logging.getLogger(__name__)

Work = Callable[[], Tensor]
Record = Callable[[Work], Work]
"""Records work; what comes back does it again, on the same tensors and into the same one."""


class Plan(Protocol):
    """What is to be done."""

    @property
    def slots(self) -> Slots:
        """That it writes to."""

    @property
    def alike(self) -> bool:
        """Whether others have its shape."""

    @property
    def shape(self) -> object:
        """Plans of a kind and of the same shape differ in what their tensors hold only."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """What is read of it; those of plans of one shape match one by one."""

    def run(self, language: LanguageModel) -> Tensor:
        """Does it."""


@dataclass(frozen=True, slots=True)
class _Recording:
    plan: Plan
    """whose tensors it reads"""
    replay: Work


class Replays:
    """Runs plans; those that are alike from recordings, if they can be recorded.

    Args:
        run: does what a plan says. It may run more than once for one plan: what it writes into
            slots must be the same each time.
        recorder: makes what records it, when recordings begin anew.
    """

    def __init__(self, run: Callable[[Plan], Tensor], recorder: Callable[[], Record]) -> None:
        self._run, self._recorder = run, recorder
        self._record: Record | None = None
        self._refused = set[type]()  # kinds of plans that can't be recorded
        self._recordings: dict[object, _Recording] = {}
        self._version = 0
        self.recorded = 0
        """how often something was recorded"""

    def __call__(self, plan: Plan) -> Tensor:
        """What comes of a plan; good until the next one."""
        if plan.slots.version != self._version:  # a recording writes to slots that are gone
            self.forget()
            self._version = plan.slots.version
        if not plan.alike or type(plan) in self._refused:
            return self._run(plan)
        shape = type(plan), plan.shape
        try:
            recording = self._recordings.pop(shape, None) or self._make(plan)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return self._do_without(plan, error)
        self._recordings[shape] = recording  # the last one that was used
        if len(self._recordings) > MOST:
            del self._recordings[next(iter(self._recordings))]
        for into, tensor in zip(recording.plan.tensors, plan.tensors, strict=True):
            into.copy_(tensor)
        return recording.replay()

    def forget(self) -> None:
        """Lets all recordings go, and their memory with whoever recorded them.

        One may be under way: CUDA lets it end, and what takes its memory comes behind it.
        """
        self._recordings.clear()
        self._record = None

    def _make(self, plan: Plan) -> _Recording:
        self._record = record = self._record or self._recorder()
        self.recorded += 1
        return _Recording(plan, record(lambda: self._run(plan)))

    def _do_without(self, plan: Plan, error: RuntimeError) -> Tensor:
        """What can't be recorded; if it can't be run either, recording isn't at fault."""
        self.forget()
        states = self._run(plan)
        kind = type(plan)
        name = kind.__name__
        _log.warning("a %s can't be recorded, and none is from now on", name, exc_info=error)
        self._refused.add(kind)
        return states


def recorder_for(device: torch.device) -> Record:
    """How steps are recorded on a device."""
    return _CudaGraphs(device) if device.type == "cuda" else _run_again


def _run_again(work: Work) -> Work:
    return work


@contextmanager
def _without_collection() -> Iterator[None]:
    """Within it, no garbage is collected: a graph that goes while another is made spoils it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _CudaGraphs:
    """Records work as CUDA graphs that share one pool of memory; it goes with the last of them.

    Args:
        device: that the work is done on. What another one is asked is not recorded: torch only
            warns, and a replay does nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def __call__(self, work: Work) -> Work:
        with torch.cuda.device(self._device):
            return self._record(work)

    def _record(self, work: Work) -> Work:
        # before the recording, once on another stream: libraries set themselves up then
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # other threads may ask the GPU meanwhile: for its memory, say
            recording = torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            )
            with _without_collection(), recording:
                out = work()
        finally:
            torch.cuda.set_stream(stream)  # where a recording fails, torch stays on its own

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay
