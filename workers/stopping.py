"""When work ends before all of it is done: at a time, when GPU hours are used up, or when told to.

What is under way is then ended and committed, and nothing more is begun: the same command does the
rest another day.
"""

import math
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")

GRACE_SECONDS = 60
"""What shards under way get to end: that of a spot machine of AWS is 120 s, a pod's usually 30."""
SPARE_SECONDS = 10
"""Behind the time of grace, to say what is left and give back what was taken. A store that neither
answers nor refuses takes minutes to be given up: who was asked to end doesn't wait for that."""
FORCED = 128 + signal.SIGTERM
"""The exit code of a process that had to be ended then, as shells count it."""
LOOK_SECONDS = 0.5
"""Between two looks whether to stop, while something is waited for."""
_DURATION = re.compile(r"(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?", re.IGNORECASE)
_TIME_OF_DAY = re.compile(r"(\d{1,2}):(\d{2})")


class Stop:
    """Whether to begin anything more, and why not. May be asked from any thread.

    Args:
        deadline: with its time zone.
        max_gpu_hours: of all replicas together.
        grace_seconds: for what is under way.
    """

    def __init__(
        self,
        deadline: datetime | None = None,
        max_gpu_hours: float | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.grace_seconds = grace_seconds
        self._deadline, self._max_gpu_hours = deadline, max_gpu_hours
        self._told = ""
        self._lock = threading.Lock()
        self.gpu_hours = 0.0
        """spent so far"""

    @property
    def reason(self) -> str:
        """Why no more is begun; empty as long as more is."""
        if self._told:
            return self._told
        if self._deadline is not None and datetime.now(UTC) >= self._deadline:
            return f"the deadline has come ({self._deadline.isoformat(timespec='seconds')})"
        if self._max_gpu_hours is not None and self.gpu_hours >= self._max_gpu_hours:
            return f"{self._max_gpu_hours:g} GPU hours are used up"
        return ""

    def ask(self, why: str) -> None:
        """Asks for the end; the first reason stays."""
        self._told = self._told or why

    def spend(self, gpu_seconds: float) -> None:
        """Counts GPU time, of all GPUs that are kept for replicas."""
        with self._lock:
            self.gpu_hours += gpu_seconds / 3600


@contextmanager
def ended_by_sigterm(stop: Stop) -> Iterator[None]:
    """SIGTERM, by which clusters and `kill` ask a process to end, becomes a reason to stop.

    What is not through a while after its time of grace ends all the same, as if it were killed:
    what is committed is kept. Only the main thread may say what a signal does; elsewhere nothing is
    changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    through = threading.Event()

    def told(_: int, __: FrameType | None) -> None:
        stop.ask("asked to end (SIGTERM)")
        wait = stop.grace_seconds + SPARE_SECONDS
        threading.Thread(target=_leave, args=(through, wait), daemon=True).start()

    before = signal.signal(signal.SIGTERM, told)
    try:
        yield
    finally:
        through.set()
        signal.signal(signal.SIGTERM, before)


def _leave(through: threading.Event, seconds: float) -> None:
    if not through.wait(seconds):
        said = f"not through {seconds:g} s after it was asked to end, and left where it is"
        print(f"{said}; what is committed is kept", file=sys.stderr, flush=True)
        os._exit(FORCED)


def until_stopped(
    items: Iterable[Item], stop: Stop, is_begun: Callable[[], bool] = lambda: True
) -> Iterator[Item]:
    """The items, as long as there is no reason to stop, and for a time of grace after that.

    Args:
        items: may let wait for the next one; read in a thread that is left behind at the end.
        stop: says when.
        is_begun: whether anything can be under way yet that the grace is for; without it, there is
            nothing to wait for.
    """
    heard = queue.SimpleQueue[Item | _End]()
    threading.Thread(target=_read_into, args=(heard, items), daemon=True).start()
    end = math.inf
    while time.monotonic() < end:
        if stop.reason:
            grace = stop.grace_seconds if is_begun() else 0.0
            end = min(end, time.monotonic() + grace)
        with suppress(queue.Empty):
            found = heard.get(timeout=LOOK_SECONDS)
            if not isinstance(found, _End):
                yield found
            elif found.error is None:
                return
            else:
                raise found.error


@dataclass(frozen=True, slots=True)
class _End:
    """Behind the last item."""

    error: Exception | None = None
    """that kept the next one from coming"""


def _read_into(heard: "queue.SimpleQueue[Item | _End]", items: Iterable[Item]) -> None:
    try:
        for item in items:
            heard.put(item)
        heard.put(_End())
    except Exception as error:  # whoever asks for the next one gets it
        heard.put(_End(error))


def read_deadline(text: str, now: datetime) -> datetime:
    """A time as people write it -> that time in UTC.

    Args:
        text: a duration from now on (`5h30m`, `45m`, `2d`), a time of day in UTC (`06:00`, the
            next one), or an ISO 8601 time with its zone (`2027-01-31T06:00+01:00`).
        now: with its zone.

    Raises:
        ValueError: it is none of these, has passed, or lies behind the end of the calendar.
    """
    try:
        return _read_time(text, now)
    except OverflowError as error:
        raise ValueError(f"{text!r} lies behind the year 9999, where the calendar ends") from error


def _read_time(text: str, now: datetime) -> datetime:
    if (named := _DURATION.fullmatch(text.strip())) is not None:
        days, hours, minutes, seconds = (int(each or 0) for each in named.groups())
        return now + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if (named := _TIME_OF_DAY.fullmatch(text.strip())) is not None:
        today = now.astimezone(UTC).replace(
            hour=int(named[1]), minute=int(named[2]), second=0, microsecond=0
        )
        return today if today > now else today + timedelta(days=1)
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"{text!r} is no time") from error
    if when.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: put Z (UTC) or +01:00 behind it")
    if when <= now:
        raise ValueError(f"{text!r} has passed")
    return when.astimezone(UTC)
