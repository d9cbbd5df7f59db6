"""Locks between the processes of one machine; the kernel frees those of one that dies.

A folder that is staged has two: `.lock` is held alone by whoever fetches, mends or removes it, and
`.use` is shared by all processes that read it, until they end.
"""

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_kept: dict[Path, IO[str]] = {}
_keeping = threading.Lock()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until nobody else has it."""
    with _opened(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def alone_at_once(path: Path) -> Iterator[bool]:
    """Waits for nobody; yields whether it could be had."""
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def share_for_life(path: Path) -> None:
    """Shares it with others until this process ends: a replica that is made anew reads again.

    Nobody may hold it alone meanwhile who doesn't hold the folder's `.lock` too; so with that lock
    in hand, this waits for nobody.
    """
    with _keeping:
        if path not in _kept:
            _kept[path] = _opened(path)
            fcntl.flock(_kept[path], fcntl.LOCK_SH)


def _opened(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a")
