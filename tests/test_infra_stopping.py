"""What runs in the pods of infra/kuberay, on a real Ray head with a token."""

import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import time

import pytest

from tests.conftest import free_ports
from tests.deployment import head
from tests.processes import SECONDS, descendants, end, wait_for

pytestmark = pytest.mark.slow

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
def ray_head(tmp_path_factory):
    """The environment of a process beside a head that asks for a token."""
    folder = tmp_path_factory.mktemp("head")
    port = free_ports(2)
    dashboard = port + 1
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
    log = (folder / "log").open("w+")
    process = subprocess.Popen(
        [
            *("ray", "start", "--head", "--block", "--num-cpus=0", "--disable-usage-stats"),
            *(f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"),
            *("--node-ip-address=127.0.0.1", f"--temp-dir={folder}/ray"),
            f"--object-store-memory={80 * 2**20}",
        ],
        env=env,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(lambda: _answers(env), process)
        yield env
    finally:
        children = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        end(children)


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


def _wait_for_files(folder, kind, count):
    deadline = time.monotonic() + SECONDS
    while len(list(folder.glob(f"{kind}-*"))) < count:
        assert time.monotonic() < deadline, list(folder.iterdir())
        time.sleep(0.1)


def test_a_head_that_is_stopped_lets_its_driver_finish(ray_head, tmp_path):
    job = ["ray", "job", "submit", "--no-wait", "--", *stubborn(tmp_path)]
    subprocess.run(job, env=ray_head, check=True, capture_output=True, timeout=SECONDS)
    _wait_for_files(tmp_path, "began", 1)
    python, flag, hook = head("label")["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"][
        "command"
    ]
    hook = hook.replace("http://127.0.0.1:8265", ray_head["RAY_API_SERVER_ADDRESS"])
    subprocess.run([python, flag, hook], env=ray_head, check=True, timeout=SECONDS)
    assert len(list(tmp_path.glob("finished-*"))) == 1  # when the hook ends, and not after it


def test_a_watcher_that_is_handed_over_again_takes_the_place_of_the_one_before(ray_head, tmp_path):
    watch = next(each for each in head("watch")["spec"]["containers"] if each["name"] == "watch")
    hand_over = [*watch["command"], *stubborn(tmp_path)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(hand_over, env=ray_head, **quiet)
    try:
        _wait_for_files(tmp_path, "began", 1)
        first.kill()  # the container; its job goes on in Ray
        first.wait()
        second = subprocess.Popen(hand_over, env=ray_head, **quiet)
        try:
            _wait_for_files(tmp_path, "began", 2)
            order = sorted(tmp_path.glob("*-*"), key=lambda path: int(path.name.split("-")[1]))
            kinds = [path.name.split("-")[0] for path in order]
            assert kinds == ["began", "finished", "began"]
        finally:
            second.kill()
            second.wait()
    finally:
        first.kill()
        first.wait()
