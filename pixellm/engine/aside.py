"""Work beside a step: on a GPU in a stream of its own, so that the device is at both."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import torch


class Aside:
    """Runs work beside what the device is at; without a GPU, just runs it.

    Args:
        device: of all tensors.
        urgent: whether it goes before a step, where both want the device.
    """

    def __init__(self, device: torch.device, urgent: bool = True) -> None:
        self._stream = _stream_of(device, urgent) if device.type == "cuda" else None

    @property
    def apart(self) -> bool:
        """Whether it goes on while the device is at something else."""
        return self._stream is not None

    def catch_up(self) -> None:
        """What runs beside comes behind all that the device was asked so far, and may read it."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    @contextmanager
    def begin(self) -> Iterator[None]:
        """What is asked within it runs beside the next steps, too; before it is read, `join`."""
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """What the device is asked next comes behind all that was begun beside it."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    @contextmanager
    def work(self) -> Iterator[None]:
        """What is asked within it runs beside all that came since `catch_up`; done at its end.

        Tensors that are made within must not leave, but for those that the host has waited for.
        """
        if self._stream is None:
            yield
            return
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            self._stream.synchronize()  # others may have what it has read


@cache
def _stream_of(device: torch.device, urgent: bool) -> torch.cuda.Stream:
    """The one of all engines on a device: torch keeps memory for each stream by itself."""
    return torch.cuda.Stream(device, priority=-1 if urgent else 0)
