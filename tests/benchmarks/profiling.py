"""Where the time of an engine's steps goes: a profile, and the places that wait for the GPU."""

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.ceilings import Clock
from tests.benchmarks.load import Feed
from tests.benchmarks.report import ROOT

MOST_LINES = 15
"""Of a profile."""
STEPS = 24
"""That are looked at: at 128 rows new ones come in with about every eighth."""
SYNC = "synchronizing"
"""How torch says that something waits for the GPU."""


@dataclass(frozen=True, slots=True)
class Line:
    """An operation or a kernel, in all steps together."""

    name: str
    seconds: float
    """of the GPU, or of the CPU where there is none; what it calls is not counted"""
    calls: int


@dataclass(frozen=True, slots=True)
class Profile:
    """What some steps consisted of."""

    lines: tuple[Line, ...]
    """the largest first"""
    steps: int
    unwatched: float
    """seconds that as many steps took just before, without the profiler"""
    watched: float
    """seconds that they took with it"""
    busy: float | None
    """seconds of them in which the GPU worked; None without one"""
    kernels: int
    """started on the GPU"""
    text: str
    """torch's own tables, by the time of the device and of the CPU"""


def take_profile(feed: Feed, clock: Clock, steps: int = STEPS) -> Profile:
    """Profiles steps of an engine that is under steady load."""
    unwatched = _take(feed, clock, steps)
    activities = [ProfilerActivity.CPU]
    if clock.on_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        watched = _take(feed, clock, steps)
    events: Any = profiler.key_averages()  # has no narrow types
    kernels = kernels_of(events)
    lines = kernels or [Line(e.key, e.self_cpu_time_total / 1e6, e.count) for e in events]
    orders = ["self_device_time_total"] * clock.on_gpu + ["self_cpu_time_total"]
    tables = [f"by {order}\n{events.table(order, row_limit=MOST_LINES)}" for order in orders]
    return Profile(
        lines=tuple(sorted(lines, key=lambda line: -line.seconds)[:MOST_LINES]),
        steps=steps,
        unwatched=unwatched,
        watched=watched,
        busy=sum(line.seconds for line in kernels) if clock.on_gpu else None,
        kernels=sum(line.calls for line in kernels),
        text="\n".join(tables),
    )


def kernels_of(events: Iterable[Any]) -> list[Line]:
    """What ran on the GPU itself; the operations that started it say the same time once more."""
    return [
        Line(event.key, event.self_device_time_total / 1e6, event.count)
        for event in events
        if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]


def _take(feed: Feed, clock: Clock, steps: int) -> float:
    clock.wait()
    start = time.perf_counter()
    for _ in range(steps):
        feed.step()
    clock.wait()
    return time.perf_counter() - start


def count_waiting(feed: Feed, clock: Clock, steps: int = STEPS) -> Mapping[str, int]:
    """How often each line of Python waited for the GPU in some steps: `file:line` -> times.

    Empty without a GPU. The line is the innermost one in Python; torch may miss some.
    """
    if not clock.on_gpu:
        return {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(steps):
                feed.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return tally(caught)


def tally(caught: list[warnings.WarningMessage]) -> dict[str, int]:
    """Warnings about waiting by their place, the most frequent first."""
    places = Counter(
        f"{_short(each.filename)}:{each.lineno}" for each in caught if SYNC in f"{each.message}"
    )
    return dict(places.most_common())


def _short(filename: str) -> str:
    path = Path(filename)
    for root in (Path(torch.__file__).parent.parent, ROOT):  # installed packages, and this one
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.name
