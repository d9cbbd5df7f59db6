"""What runs in the pods of infra/kuberay, on a real Ray head with a token."""

import os
import secrets
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conftest import free_ports
from tests.deployment import head
from tests.processes import SECONDS, descendants, end, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STUBBORN = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def finish(*_):
    time.sleep(5)  # longer than the 3 s after which Ray kills a job by itself
    (folder / f"finished-{time.monotonic_ns()}").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, finish)
(folder / f"began-{time.monotonic_ns()}").touch()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def ray_head():
    """The environment of a process beside a head that asks for a token."""
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # a short path
        yield from _start_head(Path(folder))


def _start_head(folder):
    port = free_ports(4)
    dashboard, agent, client = port + 1, port + 2, port + 3
    told = {each["name"]: each["value"] for each in head("label")["spec"]["containers"][0]["env"]}
    scripts = sysconfig.get_path("scripts")
    env = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        **told,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [
        *("ray", "start", "--head", "--block", "--num-cpus=0", "--disable-usage-stats"),
        *(f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"),
        # Else they are the same for every Ray of a machine, and jobs are handed to another one's.
        *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        *("--node-ip-address=127.0.0.1", f"--temp-dir={folder}"),
        f"--object-store-memory={80 * 2**20}",
    ]
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, text=True)
        try:
            wait_for(lambda: _answers(env), process)
            yield env
        finally:
            end([*descendants(process.pid), process.pid])
            process.wait()


def stubborn(folder):
    """The command of a job that takes its time to stop, as a driver does."""
    script = folder / "job.py"
    script.write_text(STUBBORN, encoding="utf-8")
    return [sys.executable, f"{script}", f"{folder}"]


def _answers(env):
    done = subprocess.run(
        ["ray", "job", "list"], env=env, capture_output=True, check=False, timeout=60
    )
    return done.returncode == 0


def test_a_head_that_is_stopped_lets_its_driver_finish(ray_head, tmp_path):
    job = ["ray", "job", "submit", "--", *stubborn(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        submitter = _start_until(1, job, ray_head, tmp_path, log)
    container = head("label")["spec"]["containers"][0]
    python, flag, hook = container["lifecycle"]["preStop"]["exec"]["command"]
    hook = hook.replace("http://127.0.0.1:8265", ray_head["RAY_API_SERVER_ADDRESS"])
    subprocess.run([python, flag, hook], env=ray_head, check=True, timeout=SECONDS)
    submitter.wait(SECONDS)
    assert len(list(tmp_path.glob("finished-*"))) == 1  # when the hook ends, and not after it


def test_a_watcher_that_is_handed_over_again_takes_the_place_of_the_one_before(ray_head, tmp_path):
    watch = next(each for each in head("watch")["spec"]["containers"] if each["name"] == "watch")
    hand_over = [*watch["command"], *stubborn(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        first = _start_until(1, hand_over, ray_head, tmp_path, log)
        end([first.pid])  # the container; its job goes on in Ray
        first.wait()
        second = _start_until(2, hand_over, ray_head, tmp_path, log)
        end([second.pid])
        second.wait()
    order = sorted(tmp_path.glob("*-*"), key=lambda path: int(path.name.split("-")[1]))
    kinds = [path.name.split("-")[0] for path in order]
    assert kinds == ["began", "finished", "began"], (tmp_path / "log").read_text()


def _start_until(count, command, env, folder, log):
    """Starts a container again and again, as Kubernetes does, until so many jobs have begun."""
    deadline = time.monotonic() + SECONDS
    process = None
    while len(list(folder.glob("began-*"))) < count:
        assert time.monotonic() < deadline, (folder / "log").read_text()
        if process is None or process.poll() is not None:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        time.sleep(0.1)
    return process
