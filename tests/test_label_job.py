"""The whole job with real Ray on a real S3 server, killed in every way, compared row by row.

Ray runs on loopback only, and what is killed is a process that the test has started itself.
"""

import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from jobs.label import main
from pixellm.checkpoints import save_checkpoint
from pixellm.tiny import tiny_checkpoint
from tests.conftest import S3Server, free_ports
from tests.markers import count_markers
from tests.photos import load_photos
from tests.processes import (
    SECONDS,
    descendants,
    end,
    is_alive,
    named,
    start,
    wait_for,
    wait_for_end,
)
from tests.readme_tree import ROOT
from tests.same import assert_same_rows
from workers.cluster import Machine
from workers.labels.manifests import current_commits, manifests
from workers.labels.parts import read_rows
from workers.labels.schema import LabelRow
from workers.pool import RAY_COMPLAINT
from workers.storage.stores import open_store
from workers.storage.uris import join_uri

pytestmark = [pytest.mark.slow, pytest.mark.ray]

PHOTOS = 48
ADDED = {5, 21}
"""Photos that come after the first run."""
IN_BLOCKS = """
import sys
from workers import pool
pool.MOST_BLOCKS = {blocks}
from jobs.label import main
sys.exit(main(sys.argv[1:]))
"""
"""What `jobs/label.py` does, with several shards in a block as large runs have it."""
BREAKING = """
import sys
from pathlib import Path
from torch import AcceleratorError
from workers import pool
from workers.replica import ShardLabeller

class Breaking(ShardLabeller):
    def setup(self, assignments):
        super().setup(assignments)
        (bench,) = self._benches.values()
        if not (flag := Path({flag!r})).exists():
            break_after(40, bench.model._engine, flag)

def break_after(steps, engine, flag):
    left, own = [None] * steps, engine.step
    def step():
        if left:
            left.pop()
            return own()
        flag.touch()
        raise AcceleratorError("CUDA error: an illegal memory access was encountered")
    engine.step = step

class Actor(pool.ReplicaActor):
    def make(self, *arguments):
        return Breaking(*arguments)

pool.ReplicaActor = Actor
from jobs.label import main
sys.exit(main(sys.argv[1:]))
"""
"""What `jobs/label.py` does, with a device that fails in the midst of its first replica's work, and
in every step from then on."""
REPLICA = "ray::MapWorker"  # how Ray calls the process of a replica


# ---- the job as a process ----


@dataclass(frozen=True)
class Job:
    """A labelling job, as somebody types it."""

    source: str
    output: str
    model: str
    cache: Path
    env: dict[str, str]

    def command(self, *flags: str) -> list[str]:
        return [
            *("jobs/label.py", "--input", self.source, "--output", self.output),
            *("--model", self.model, "--model-cache", str(self.cache)),
            *("--instruction", "the dog", "--instruction", "the red, round thing"),
            *("--reading.records-per-shard", "4", "--decoding.max-new-tokens", "32"),
            # one question a batch, one thread: then not even the last digit depends on company
            *("--replica.batch-questions", "1", "--replica.num-cpus", "1"),
            *("--replica.shards-in-flight", "2", "--num-gpus-per-replica", "0", *flags),
        ]

    def start(self, *flags: str, program: str = "") -> subprocess.Popen[str]:
        """Starts it; or a program in the place of `jobs/label.py`."""
        command = self.command(*flags)
        if program:
            command[:1] = ["-c", program]
        return start(command, self.env)

    def run(self, *flags: str) -> tuple[int, str]:
        return wait_for_end(self.start(*flags))

    def table(self) -> list[LabelRow]:
        store = open_store(self.output)
        rows = read_rows(store, self.output, current_commits(store, self.output))
        return sorted(rows, key=lambda row: (row.item_id, row.image_uri))

    def markers(self) -> int:
        return count_markers(self.output)


# ---- what they work on ----


@pytest.fixture(scope="module")
def model(tmp_path_factory, s3_server) -> str:
    """The tiny model, in a bucket."""
    folder = tmp_path_factory.mktemp("model")
    checkpoint = tiny_checkpoint(0)
    save_checkpoint(checkpoint.model, checkpoint.tokenizer, folder)
    place = f"s3://{new_bucket(s3_server)}/models/tiny"
    for path in folder.iterdir():
        open_store(place).put(f"{place}/{path.name}", path.read_bytes())
    return place


@pytest.fixture(scope="module")
def new_job(model: str, s3_server: S3Server, tmp_path_factory) -> Callable[[str], Job]:
    """Jobs with an output of their own."""
    cache = tmp_path_factory.mktemp("cache")
    more = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def make(source: str) -> Job:
        output = f"s3://{new_bucket(s3_server)}/labels"
        return Job(source, output, model, cache, {**os.environ, **s3_server.env, **more})

    return make


def new_bucket(server: S3Server) -> str:
    name = f"test-{secrets.token_hex(8)}"
    server.client().create_bucket(Bucket=name)
    return name


def put_photo(prefix: str, number: int) -> None:
    photo = Image.fromarray(load_photos()[number % 8].rgb)
    file = io.BytesIO()
    photo.rotate(number).save(file, "JPEG")
    open_store(prefix).put(f"{prefix}/{number:03}.jpg", file.getvalue())


@dataclass(frozen=True)
class Grown:
    """A job whose input grew after its first run, and what that and the second run left."""

    job: Job
    first: list[LabelRow]
    told: str


@pytest.fixture(scope="module")
def grown(new_job, s3_server) -> Grown:
    s3_server.client().create_bucket(Bucket="growing")  # borders of shards depend on the names
    prefix = "s3://growing/photos"
    open_store(prefix).put(f"{prefix}/cut.jpg", load_photos()[0].data[:9000])
    open_store(prefix).put(f"{prefix}/text.jpg", b"this is no image")
    for number in set(range(PHOTOS)) - ADDED:
        put_photo(prefix, number)
    job = new_job(prefix)
    check_run(job)
    first = job.table()
    for number in ADDED:
        put_photo(prefix, number)
    return Grown(job, first, check_run(job))


@pytest.fixture(scope="module")
def undisturbed(grown: Grown, new_job) -> Job:
    """A run over the whole input that nothing happened to."""
    job = new_job(grown.job.source)
    check_run(job)
    return job


@pytest.fixture
def job(undisturbed: Job, new_job) -> Job:
    return new_job(undisturbed.source)


def check_run(job: Job) -> str:
    code, told = job.run()
    assert code == 0, told
    assert "Warning" not in told
    return told


def check_like(job: Job, other: Job) -> None:
    assert_same_rows(job.table(), other.table())
    (manifest,) = manifests(open_store(job.output), job.output)
    assert manifest.rows == 2 * (PHOTOS + 2)


# ---- whole runs ----


def test_images_that_are_added_cost_only_their_own_answers(grown, undisturbed):
    check_like(grown.job, undisturbed)
    known = {row.item_id: row.created_at for row in grown.first if row.status != "rejected_input"}
    again = {row.item_id: row.created_at for row in grown.job.table() if row.item_id in known}
    assert again == known
    (reused,) = re.findall(r"reused +(\d+) of the rows", grown.told)
    # shards of 4 have few places to fall into step again, so borders move for some way; not for all
    assert 0 < int(reused) < len(known)


def test_the_line_of_ray_that_looks_like_an_error_is_explained_just_before_it_comes(grown):
    lines = grown.told.splitlines()
    (explained,) = [n for n, line in enumerate(lines) if RAY_COMPLAINT in line]
    (printed,) = [n for n, line in enumerate(lines) if "has constructor arguments in the" in line]
    assert explained < printed, "where Ray prints it no longer, the explanation must go"


def test_a_second_start_of_a_finished_run_does_nothing(undisturbed, tmp_path):
    rows = undisturbed.table()
    bad = {row.image_uri.rpartition("/")[2] for row in rows if row.status == "rejected_input"}
    assert bad == {"cut.jpg", "text.jpg"}
    before = list(open_store(undisturbed.output).list(undisturbed.output))
    code, told = undisturbed.run("--export-coco", str(tmp_path / "coco.json"))
    assert code == 0, told
    assert "nothing to do" in told
    assert "starting Ray" not in told
    assert list(open_store(undisturbed.output).list(undisturbed.output)) == before
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert len(coco["images"]) == PHOTOS
    assert len(coco["annotations"]) == sum(t.area > 0 for row in rows for t in row.targets) > 0


@pytest.mark.parametrize("program", ["", IN_BLOCKS.format(blocks=2)], ids=["", "in blocks"])
def test_a_killed_replica_costs_no_row(job, undisturbed, program):
    process = job.start("--max-replicas", "1", program=program)
    wait_for(lambda: job.markers() >= 2, process)
    (pid,) = named(process, REPLICA)
    os.kill(pid, signal.SIGKILL)
    before = job.markers()
    code, told = wait_for_end(process)
    assert code == 0, told
    assert before < job.markers()
    check_like(job, undisturbed)


def test_a_device_that_fails_costs_a_replica_and_no_row(job, undisturbed, tmp_path):
    program = BREAKING.format(flag=str(flag := tmp_path / "broken"))
    code, told = wait_for_end(job.start("--max-replicas", "1", program=program))
    assert code == 0, told
    assert flag.exists()
    assert "this replica is broken and will be replaced: the device failed: CUDA error" in told
    check_like(job, undisturbed)


def test_a_killed_driver_costs_no_row_and_nobody_labels_on(job, undisturbed):
    process = job.start("--max-replicas", "1")
    wait_for(lambda: job.markers() >= 2, process)
    started = descendants(process.pid)
    working = named(process, REPLICA)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(map(is_alive, working)):
        time.sleep(0.1)
    assert not any(map(is_alive, working))
    end(started)  # Ray's own agents look only every half minute whether they are still needed
    committed = job.markers()
    assert not manifests(open_store(job.output), job.output)
    assert f"{committed} of them before this start" in check_run(job)
    check_like(job, undisturbed)


def test_ctrl_c_keeps_what_is_committed(job):
    process = job.start()
    wait_for(lambda: job.markers() >= 2, process)
    process.send_signal(signal.SIGINT)
    code, told = wait_for_end(process)
    assert code == 130, told
    assert "what is committed is kept" in told
    assert "Traceback" not in told
    assert job.markers() >= 2


# ---- on a cluster ----


@dataclass(frozen=True)
class Cluster:
    """A Ray head on this machine that wants a token."""

    address: str
    env: dict[str, str]


@pytest.fixture
def cluster(job: Job, tmp_path: Path) -> Iterator[Cluster]:
    first = free_ports(100)
    folder = tempfile.mkdtemp(prefix="ray-")  # not below tmp_path: names of sockets are short
    env = {
        **job.env,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{job.env['PATH']}",
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-gpus=0"]
    ports = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    command += [f"--{name}={first + n}" for n, name in enumerate((*ports, "metrics-export-port"))]
    command += [f"--min-worker-port={first + 10}", f"--max-worker-port={first + 99}"]
    command += [f"--object-store-memory={200 * 2**20}"]
    with (tmp_path / "head.log").open("w") as log:
        head = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        yield Cluster(f"http://127.0.0.1:{first + 1}", env)
    finally:
        started = descendants(head.pid)
        head.kill()
        head.wait()
        end(started)
        shutil.rmtree(folder, ignore_errors=True)


def submit(cluster: Cluster, command: list[str], **more: str) -> tuple[int, str]:
    sent = ["ray", "job", "submit", "--address", cluster.address, "--working-dir", "."]
    done = subprocess.run(
        [*sent, "--", "python", *command],
        cwd=ROOT,
        env={**cluster.env, **more},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout


def test_submitted_jobs_label_the_same_and_learn_from_it_and_need_the_token(
    cluster, job, undisturbed
):
    wait_until_up(cluster.address)
    code, told = submit(cluster, job.command(), RAY_AUTH_TOKEN=secrets.token_hex(16))
    assert code != 0
    assert "Authentication" in told
    assert job.markers() == 0
    code, told = submit(cluster, job.command())
    assert code == 0, told
    assert "connecting to the Ray cluster" in told
    check_like(job, undisturbed)
    trained = f"{job.output}-trained"
    learn = ["jobs/train.py", "--data", job.output, "--model", job.model, "--output", trained]
    learn += ["--model-cache", f"{job.cache}", "--steps", "2", "--accumulate", "1"]
    code, told = submit(cluster, [*learn, "--evaluate-every", "0", "--num-workers", "1"])
    assert code == 0, told
    assert "step 2 of 2: loss" in told
    assert open_store(trained).find(join_uri(trained, "model", "model.safetensors")) is not None


def wait_until_up(address: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=1),
        ):
            return
        time.sleep(0.2)
    pytest.fail("no Ray head")


# ---- what goes wrong before anything is begun ----


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--input", "s3://{bucket}/empty"), "nothing to label under 's3://"),
        (("--replica.batch-question", "3"), "did you mean --replica.batch-questions?"),
        (("--model", "org/name"), "hubs are never asked"),
        (("--reading.threads", "0"), "--reading.threads: input should be greater"),
    ],
)
def test_what_can_not_be_begun_is_told_in_a_line(new_job, grown, bucket, capsys, flags, told):
    job = new_job(grown.job.source)
    name, value = flags
    assert main([*job.command()[1:], name, value.format(bucket=bucket)]) == 2
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if told in line]
    assert line.startswith("label: ")
    assert printed.out == ""
    assert list(open_store(job.output).list(job.output)) == []


def test_what_no_machine_can_hold_is_told_in_a_line(new_job, grown, monkeypatch, capsys):
    monkeypatch.setattr("workers.pool.connected", lambda *_, **__: nullcontext(True))
    monkeypatch.setattr("workers.pool.list_machines", lambda: [Machine(8, 0)])
    job = new_job(grown.job.source)
    assert main([*job.command()[1:], "--replica.num-cpus", "999"]) == 2
    told = capsys.readouterr()
    (line,) = [line for line in told.err.splitlines() if "the largest machine has 8 and 0" in line]
    assert line.startswith("label: a replica needs 999 CPUs and 0 GPUs, ")
    assert told.out == ""
    assert list(open_store(job.output).list(job.output)) == []


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("--input", "s3://no-such-bucket-anywhere/x"), 2, "there is no bucket"),
        (("--num-gpus-per-replica", "64"), 2, "--num-gpus-per-replica 64: this machine has"),
    ],
)
def test_the_process_ends_with_the_code_and_without_a_traceback(new_job, grown, flags, code, told):
    job = new_job(grown.job.source)
    got, text = job.run(*flags)
    assert got == code, text
    assert told in text
    assert "Traceback" not in text
    assert list(open_store(job.output).list(job.output)) == []


@pytest.mark.parametrize(
    ("first", "waiting"),
    [
        # of a wrong flag one is told at once
        ("jobs.label", {"torch", "transformers", "ray", "pyarrow", "pycocotools", "boto3"}),
        # where all is committed, no cluster is needed
        ("workers.driver", {"ray"}),
        # the model's code is for those who load it
        ("workers.runs, workers.driver, workers.pool, workers.watching.watcher", {"transformers"}),
    ],
)
def test_what_takes_seconds_to_import_waits_until_it_is_needed(first, waiting):
    code = f"import sys, {first}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert waiting & set(told.stdout.decode().split()) == set()
