"""The Ray that a run works on: the cluster that RAY_ADDRESS names, or one of this machine's own."""

import logging
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read by Ray as it is imported: a call that comes late, from a thread left behind when a run
# ends early, must not start another Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import ray

from workers.errors import LineError, SettingsError
from workers.wording import Say

LEAST_FREE_BYTES = 100 * 2**20
"""On the disk that a Ray of our own writes its logs to. Where that is full it waits for ever."""
OBJECT_STORE_BYTES = 256 * 2**20
"""Of a Ray of our own: it carries shard lists and summaries; images never go through it."""
REACH_SECONDS = 5.0
"""A cluster's head gets this long to be there, since it may just be starting. Ray itself would wait
for minutes, without a word."""
TRY_SECONDS, PAUSE_SECONDS = 3.0, 1.0
"""Of one try to reach it, and between two."""
_HOST_AND_PORT = re.compile(r"(?:ray://)?(\[[^\]]+\]|[^\[\]/:]+):(\d{1,5})(?:[/?].*)?")


@dataclass(frozen=True, slots=True)
class Machine:
    """What Ray says of a node."""

    cpus: float
    gpus: float


def check_address() -> None:
    """Whether anybody listens where RAY_ADDRESS points to, if it is set.

    Raises:
        SettingsError, LineError: as `_check_reachable`.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        _check_reachable(address)


@contextmanager
def connected(say: Say, worker_logs: bool = True) -> Iterator[bool]:
    """Ray for a run: the cluster that RAY_ADDRESS names, as in a job, or one of our own.

    Args:
        say: is told what is waited for.
        worker_logs: whether what other processes print is printed here, too.

    Yields whether it is our own.
    """
    address = os.environ.get("RAY_ADDRESS")
    own = not address
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its future; else a warning
    if address:
        say(f"connecting to the Ray cluster at {address}")
        _check_reachable(address)
    else:
        _check_disk()
    heeded = signal.getsignal(signal.SIGTERM)
    try:
        if own:
            say("starting Ray on this machine (10 to 20 seconds)")
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                log_to_driver=worker_logs,
            )
        else:
            ray.init(logging_level=logging.ERROR, log_to_driver=worker_logs)
    except Exception as error:  # it raises whatever the layer below raised
        raise LineError(f"Ray can't be {'started' if own else 'reached'}: {error}") from error
    try:
        _heed(heeded)
        yield own
    finally:
        ray.shutdown()
        _heed(heeded)  # whoever goes on after it is still to be asked to end


def _heed(handler: Any) -> None:  # noqa: ANN401 - a function, a number, or None
    """Takes SIGTERM back from Ray, whose own handler ends the process at once."""
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGTERM, handler)


def _check_reachable(address: str) -> None:
    """Whether anybody listens where RAY_ADDRESS points to.

    Raises:
        SettingsError: it is where jobs are submitted to.
        LineError: nobody does. Forms without a host and a port ("auto", "local", another scheme)
            are left to Ray, which is quick to say what is wrong with them.
    """
    if address.startswith(("http://", "https://")):
        raise SettingsError(
            f"RAY_ADDRESS={address} is where jobs are submitted to: put `ray job submit --working-"
            "dir . --` before the command, or unset RAY_ADDRESS to work on this machine"
        )
    named = _HOST_AND_PORT.fullmatch(address)
    if named is None:
        return
    deadline = time.monotonic() + REACH_SECONDS
    while why_not := _try_to_reach(named[1].strip("[]"), int(named[2])):
        if time.monotonic() + PAUSE_SECONDS > deadline:
            raise LineError(
                f"no Ray cluster can be reached at RAY_ADDRESS={address} ({why_not}). Start it, "
                "correct the address, or unset RAY_ADDRESS to work on this machine."
            )
        time.sleep(PAUSE_SECONDS)


def _try_to_reach(host: str, port: int) -> str:
    """Connects once; what was wrong, or nothing."""
    try:
        socket.create_connection((host, port), TRY_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:  # the latter two: no port, no name
        return f"{error}"
    return ""


def _check_disk() -> None:
    """Whether Ray has room for what it writes while it runs.

    Raises:
        LineError: it has not.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # as Ray has it
    there = next(each for each in (Path(folder), *Path(folder).parents) if each.is_dir())
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE_BYTES:
        raise LineError(
            f"Ray writes to {folder!r}, where {free >> 20:,} MiB are free and"
            f" {LEAST_FREE_BYTES >> 20:,} are needed: free some (old runs lie in {folder}/ray), or"
            " give another folder (RAY_TMPDIR=FOLDER)"
        )


def describe_metrics() -> str:
    """Where a Ray of this machine's own serves metrics; it takes another free port each time."""
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    port = int(node["MetricsExportPort"])
    if port < 0:  # Ray without the extra `default` has nobody who would serve them
        return "no metrics for Prometheus: Ray was installed without its extra, ray[default]"
    return f"metrics for Prometheus, while it runs: http://127.0.0.1:{port}/metrics"


def list_machines() -> list[Machine]:
    """Those that are there now; a cluster may grow."""
    known = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in known if node["Alive"]]
    return [Machine(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
