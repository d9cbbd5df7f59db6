"""Work beside a step: on a GPU in a stream of its own, so that neither waits for the other."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Aside:
    """Runs work beside what the device is at; without a GPU, just runs it.

    Args:
        device: of all tensors.
    """

    def __init__(self, device: torch.device) -> None:
        # before the step: few small kernels, and Python waits for them
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None

    def catch_up(self) -> None:
        """What runs beside comes behind all that the device was asked so far, and may read it."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    @contextmanager
    def work(self) -> Iterator[None]:
        """What is asked within it runs beside all that came since `catch_up`; done at its end.

        Tensors that are made within must not leave.
        """
        if self._stream is None:
            yield
            return
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            self._stream.synchronize()  # others may have what it has read
