"""Workers that learn together on real Ray, with states on a real S3 server, killed in the midst."""

import json
import os
import pickle
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from ray.train import ScalingConfig
from torch import Tensor

from jobs.train import main
from pixellm.checkpoints import save_checkpoint
from pixellm.tiny import tiny_checkpoint
from pixellm.weights import unpack_tensors
from tests.processes import descendants, end, named, start, wait_for, wait_for_end
from tests.training_tables import put_local_photos
from workers.cluster import Machine
from workers.errors import LineError, SettingsError
from workers.storage.stores import Anywhere, open_store
from workers.storage.uris import join_uri
from workers.training.states import States
from workers.worker_group import Group, explain

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STEPS = 12
WORKER = "ray::RayTrainWorker"  # how Ray calls the process of a worker


@dataclass(frozen=True)
class Training:
    """A training job, as somebody types it."""

    data: str
    output: str
    model: Path
    env: dict[str, str]

    def flags(self, *more: str) -> list[str]:
        return [
            *("--data", self.data, "--output", self.output, "--model", str(self.model)),
            *("--steps", str(STEPS), "--warm-up", "1", "--save-every", "2", "--rate", "0.003"),
            # dropout is drawn for each worker: without it, their number makes no difference
            *("--dropout", "0", "--batch", "1", "--held-out", "0", *more),
        ]

    def start(self, *more: str) -> subprocess.Popen[str]:
        return start(["jobs/train.py", *self.flags(*more)], self.env)

    def run(self, *more: str) -> tuple[int, str]:
        return wait_for_end(self.start(*more))

    def states(self) -> list[int]:
        """Steps of the states that count."""
        found = open_store(self.output).list(join_uri(self.output, "_states"))
        names = [info.uri.rpartition("/")[2] for info in found]
        return [int(name.removesuffix(".json")) for name in names if name.endswith(".json")]

    def weights(self) -> dict[str, Tensor]:
        place = join_uri(self.output, "model", "model.safetensors")
        return unpack_tensors(open_store(self.output).get(place))

    def losses(self) -> dict[int, float]:
        store = open_store(self.output)
        found = list(store.list(join_uri(self.output, "metrics")))
        lines = [json.loads(line) for each in found for line in store.get(each.uri).splitlines()]
        assert len(lines) == len({line["step"] for line in lines})
        return {line["step"]: line["total"] for line in lines}


@pytest.fixture(scope="module")
def ground(tmp_path_factory, s3_server):
    """A tiny model, photos, and what people drew on them as a label table in a bucket."""
    folder = tmp_path_factory.mktemp("ground")
    tiny = tiny_checkpoint(0, max_positions=512)
    save_checkpoint(tiny.model, tiny.tokenizer, folder / "tiny")
    bucket = "training"
    s3_server.client().create_bucket(Bucket=bucket)
    put_local_photos(folder, f"s3://{bucket}/gold", finish=True)
    return folder, bucket


@pytest.fixture
def training(ground, request):
    folder, bucket = ground
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    env.pop("RAY_ADDRESS", None)
    output = f"s3://{bucket}/{request.node.name}"
    return Training(f"s3://{bucket}/gold", output, folder / "tiny", env)


@pytest.fixture(scope="module")
def alone(ground):
    """The undisturbed run of one process, with as many rows in a step as two workers have."""
    folder, bucket = ground
    one = Training(f"s3://{bucket}/gold", f"s3://{bucket}/alone", folder / "tiny", {})
    assert main(one.flags("--num-workers", "0", "--accumulate", "4")) == 0
    return one


def check_like(training: Training, alone: Training) -> None:
    losses, expected = training.losses(), alone.losses()
    assert losses.keys() == expected.keys() == set(range(1, STEPS + 1))
    assert losses == pytest.approx(expected, rel=1e-6)
    # not each by itself: Adam makes steps of rounding errors where a gradient is 0 (keys' biases)
    assert distance(training.weights(), alone.weights()) < 1e-4


def distance(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """Of all weights together, as a share of their length."""
    assert weights.keys() == others.keys()
    apart = sum(float((value - others[name]).square().sum()) for name, value in weights.items())
    length = sum(float(value.square().sum()) for value in others.values())
    return float((apart / length) ** 0.5)


def wait_for_state(training: Training, process: subprocess.Popen[str], after: int = 4) -> None:
    wait_for(lambda: max(training.states(), default=0) >= after, process)


TWO: Sequence[str] = ("--num-workers", "2", "--accumulate", "2")


def test_a_killed_worker_costs_no_step(training, alone):
    process = training.start(*TWO)
    wait_for_state(training, process)
    both = named(process, WORKER)
    assert len(both) == 2
    os.kill(both[0], signal.SIGKILL)
    code, told = wait_for_end(process)
    assert code == 0, told
    assert "a worker died; all begin anew after the" in told
    assert f"step {STEPS} of {STEPS}" in told
    check_like(training, alone)


def test_a_killed_job_goes_on_when_it_is_started_again(training, alone):
    process = training.start(*TWO, "--parallel", "fsdp")
    wait_for_state(training, process)
    started = descendants(process.pid)
    process.kill()
    process.communicate()
    end(started)
    assert STEPS not in training.states()
    code, told = training.run(*TWO, "--parallel", "fsdp")
    assert code == 0, told
    assert "going on from step" in told
    check_like(training, alone)


def test_a_loss_that_explodes_ends_the_run_with_the_newest_state_kept(training):
    code, told = training.run(*TWO, "--rate", "1e9", "--save-every", "1", "--clip", "1e9")
    assert code == 1, told
    assert "train: the loss of step" in told
    assert "lower the learning rate" in told
    assert "a worker died" not in told
    assert training.states()


# ---- how they end ----


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return pickle.loads(pickle.dumps(explained(caught)))


def explained(error: Exception, alone: bool = True) -> Exception | None:
    ended = explain(error, "less would do", alone=alone)
    return ended and ended.error


def test_a_bug_of_a_worker_arrives_with_the_lines_that_it_came_of():
    (note,) = raised(RuntimeError("shapes differ")).__notes__
    assert "in raised" in note
    assert "shapes differ" in note


def test_what_is_raised_on_purpose_arrives_as_it_is():
    told = raised(SettingsError("nothing to learn from"))
    assert (type(told), f"{told}") == (SettingsError, "nothing to learn from")
    assert not hasattr(told, "__notes__")


def test_only_a_worker_that_has_others_can_have_lost_them():
    gone = RuntimeError("Connection closed by peer")
    assert explained(gone, alone=False) is None
    assert explained(gone) is gone
    assert explained(torch.AcceleratorError("CUDA error: unspecified launch failure")) is None


def test_a_gpu_that_is_too_small_is_told_with_what_needs_less():
    told = explained(torch.OutOfMemoryError("2 GiB"), alone=False)
    assert isinstance(told, LineError)
    assert f"{told}" == "the memory of a GPU is too small: less would do: 2 GiB"


# ---- what they need ----


@pytest.fixture
def scale(monkeypatch):
    """What a group asks Ray for, on such machines; and what it says."""

    def of(group: Group, machine: Machine, own: bool = True) -> tuple[ScalingConfig, list[str]]:
        monkeypatch.setattr("workers.worker_group.list_machines", lambda: [machine])
        told: list[str] = []
        return group.scale(own, told.append), told

    return of


def test_more_workers_than_a_machine_can_have_are_refused(scale):
    with pytest.raises(SettingsError) as refused:
        scale(Group(4096), Machine(8, 0))
    assert "--num-workers 4096 needs 4096 processors, and there are 8 on" in f"{refused.value}"
    with pytest.raises(SettingsError, match="--num-workers 3 needs 3 GPUs, and there are 2 on"):
        scale(Group(3), Machine(8, 2))


def test_a_cluster_may_grow(scale):
    _, (told,) = scale(Group(3), Machine(8, 2), own=False)
    assert told.endswith("needs 3 GPUs, and there are 2 in the cluster: waiting until it has grown")


def test_a_worker_gets_its_share_of_the_machine_and_a_gpu_where_there_are_any(scale):
    found, _ = scale(Group(2), Machine(8, 2))
    assert (found.use_gpu, found.resources_per_worker) == (True, {"CPU": 4.0, "GPU": 1.0})
    found, _ = scale(Group(2, cpus=1), Machine(8, 0))
    assert found.resources_per_worker == {"CPU": 1.0}


# ---- the small model, from nothing ----


def drawn_flags(folder: Path, *more: str) -> list[str]:
    return [
        *("--recipe", "drawn", "--output", str(folder / "out"), "--cache", str(folder / "cache")),
        *("--stages", "words", "--words-steps", "8", "--save-every", "2"),
        *("--scenes", "8", "--held-out", "2", "--threads", "1", *more),
    ]


def drawn_states(folder: Path) -> States:
    return States(Anywhere(), f"{folder}/out/_stages/words", print)


def drawn_losses(folder: Path) -> list[float]:
    files = sorted((folder / "out/_stages/words/metrics").iterdir())
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    return [line["total"] for line in lines]


def test_the_small_model_learns_of_two_what_it_learns_of_one_though_one_was_killed(tmp_path):
    one, both = tmp_path / "one", tmp_path / "both"
    assert main(drawn_flags(one, "--accumulate", "2")) == 0
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    env.pop("RAY_ADDRESS", None)
    process = start(["jobs/train.py", *drawn_flags(both, "--num-workers", "2")], env)
    wait_for(lambda: max(drawn_states(both).steps(), default=0) >= 2, process)
    os.kill(named(process, WORKER)[1], signal.SIGKILL)
    code, told = wait_for_end(process)
    assert code == 0, told
    assert "a worker died; all begin anew after the" in told
    assert "words: going on from step" in told
    assert drawn_losses(both) == pytest.approx(drawn_losses(one), rel=1e-5)
    learned, expected = (drawn_states(each).newest().tensors for each in (both, one))
    averages = [name for name in expected if name.startswith("average.")]
    assert distance(*({name: each[name] for name in averages} for each in (learned, expected))) < (
        1e-4
    )
