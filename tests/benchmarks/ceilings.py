"""What a device can do at best, measured: arithmetic and memory traffic; and how to time it.

A GPU works on while Python goes on: its times are those of events in its own stream, which cost no
waiting. On a CPU the same code takes the time of day.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch

Mark = float | torch.cuda.Event
"""A moment: of the clock, or in the stream of a GPU."""
MATMUL_SIDE, TOY_MATMUL_SIDE = 8192, 192
"""Of the square matrices: 1.1 TFLOP, 0.4 GB in bf16."""
COPY_BYTES, TOY_COPY_BYTES = 2**32, 2**22
"""Of the tensor that is copied: far more than caches hold."""
RUNS, UNTIMED = 20, 5


class Clock:
    """Takes moments on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.on_gpu = device, device.type == "cuda"

    def mark(self) -> Mark:
        """This moment: when the device comes to what it is asked next."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    @property
    def aside(self) -> bool:
        """Whether what is asked now runs beside the rest, in a stream of its own."""
        device = self._device
        return self.on_gpu and torch.cuda.current_stream(device) != torch.cuda.default_stream(
            device
        )

    def wait(self) -> None:
        """Waits until the device has done all that it was asked."""
        if self.on_gpu:
            torch.cuda.synchronize(self._device)


def seconds_between(start: Mark, stop: Mark) -> float:
    """Seconds between two moments that are over (`Clock.wait`)."""
    if isinstance(start, float) or isinstance(stop, float):
        assert isinstance(start, float), "moments of two clocks"
        assert isinstance(stop, float), "moments of two clocks"
        return stop - start
    return float(start.elapsed_time(stop)) / 1000  # CUDA counts milliseconds


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The most that was seen of a device; each run counts."""

    flops: Sequence[float]
    """operations per second of a large product, two per multiply-add"""
    traffic: Sequence[float]
    """bytes per second of a large copy, reading and writing counted"""

    @property
    def flop_rate(self) -> float:
        """Operations per second, the median."""
        return median(self.flops)

    @property
    def byte_rate(self) -> float:
        """Bytes per second, the median."""
        return median(self.traffic)


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, toy: bool) -> Ceilings:
    """Times a product of square matrices and a copy.

    Args:
        device: that is measured.
        dtype: of the matrices.
        toy: whether small ones will do.
    """
    return Ceilings(
        flops=_multiply(TOY_MATMUL_SIDE if toy else MATMUL_SIDE, device, dtype),
        traffic=_copy(TOY_COPY_BYTES if toy else COPY_BYTES, device),
    )


def _multiply(side: int, device: torch.device, dtype: torch.dtype) -> list[float]:
    # random values: zeros take less power, and a GPU is faster at them
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return [2 * side**3 / s for s in time_runs(lambda: torch.mm(a, b, out=out), device)]


def _copy(size: int, device: torch.device) -> list[float]:
    old = torch.empty(size, device=device, dtype=torch.uint8).random_()
    new = torch.empty_like(old)
    return [2 * size / s for s in time_runs(lambda: new.copy_(old), device)]


def time_runs(work: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of each of `RUNS` runs, after some untimed ones."""
    clock = Clock(device)
    for _ in range(UNTIMED):
        work()
    marks = [clock.mark()]
    for _ in range(RUNS):
        work()
        marks.append(clock.mark())
    clock.wait()
    return [seconds_between(*pair) for pair in pairwise(marks)]


# ---- the device itself ----


def find_device() -> torch.device:
    """The GPU at hand, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def describe(device: torch.device) -> Mapping[str, str]:
    """What kind of device it is, and with which drivers."""
    if device.type != "cuda":
        return {"device": "CPU", "threads": str(torch.get_num_threads())}
    properties = torch.cuda.get_device_properties(device)
    free, whole = torch.cuda.mem_get_info(device)
    return {
        "device": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": str(properties.multi_processor_count),
        "memory": f"{whole / 1e9:.1f} GB, {free / 1e9:.1f} GB of it free at the start",
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
    }


def forget_peak(device: torch.device) -> None:
    """From now on another peak of memory is looked for; a CPU's is that of the whole process."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """The most memory that tensors took since `forget_peak`; on a CPU all of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reserved_bytes(device: torch.device) -> int:
    """The most memory that was held since `forget_peak`, what recorded steps keep included."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return peak_bytes(device)


def out_of_memory_errors(device: torch.device) -> int:
    """How often memory has run out so far, those times counted that the engine got over."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.memory_stats(device).get("num_ooms", 0))
