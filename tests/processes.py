"""Processes that a test has started, and what they have started in their turn."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.readme_tree import ROOT

SECONDS = 240
"""For Ray to start and a job to end, on a machine that is busy with other things."""


def _heed_ctrl_c() -> None:
    """Whoever started the tests in the background has made them deaf to it, and their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
    """Starts one of our jobs, as somebody types it in the repository; what it says is kept."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_heed_ctrl_c,
    )


def wait_for_end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and all that it said."""
    told, _ = process.communicate(timeout=SECONDS)
    return process.returncode, told


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def descendants(pid: int) -> dict[int, str]:
    """The processes that a process has started, with their command lines."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state_and_parent = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(state_and_parent[1])
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        above = waiting.pop()
        for child in [child for child, parent in parents.items() if parent == above]:
            with suppress(OSError):
                found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
            waiting.append(child)
    return found


def named(process: subprocess.Popen[str], name: str) -> list[int]:
    """Of the processes that it has started, those whose command line begins so."""
    return [pid for pid, command in descendants(process.pid).items() if command.startswith(name)]


def end(pids: Iterable[int]) -> None:
    """Ends processes that this test has started, or their children."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
