"""Training workers on Ray, as many as are asked for; when one dies, all begin anew where they were.

    driver -- TorchTrainer --> worker 0, 1, ... (`Task.run`)
       ^------- Ear ---------------'    lines, and how it ended

The workers add up their gradients, so none of them can go on without the others. Ray Train starts
them and connects them; states are ours (`workers.training.states`), so that a whole job that was
killed goes on as well, and on another number of machines. Who catches what:

    PixelLMError         ends the run with its message: it would come again
    a bug of ours        ends the run with its traceback
    a worker was killed,
    or lost the others   all begin anew from the newest state, RESTARTS times without a newer one

torch.distributed says by a RuntimeError that the others are gone, and torch says much else by it:
so of several workers, a bug of that kind is only known as one when it has come again and again.
"""

import os
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import ray
import ray.train
import ray.train.torch
import torch
from ray.actor import ActorHandle
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from pixellm.errors import PixelLMError
from workers.cluster import connected, list_machines
from workers.errors import LineError, SettingsError
from workers.training.parallel import Together
from workers.wording import Say

RESTARTS = 3
"""Times that workers begin anew without a state that is newer than the one before: what kills them
that often, an image too large for the memory, say, kills them again."""
LISTEN_SECONDS = 0.5
"""Between two looks at what the workers said."""
SILENCE_SECONDS = 1800
"""After which workers no longer wait for one of them that neither answers nor died; the first waits
for the slowest to load its model, and at each state all wait for the first to write it."""


class Task(Protocol):
    """What the workers do together; each of them is given it."""

    @property
    def needs_less(self) -> str:
        """Which settings need less memory."""
        ...

    def run(self, device: torch.device, peers: Together, say: Say) -> str:
        """The whole way of one worker, from the newest state on; returns where the result lies."""
        ...

    def count_kept(self, say: Say) -> int:
        """Steps behind which workers would go on that begin anew."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker came to its end."""

    result: str = ""
    """where what it wrote lies"""
    error: Exception | None = None


@ray.remote(num_cpus=0)
class Ear:
    """Hears what the workers say, until the driver asks for it."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._ended: Ended | None = None

    def say(self, line: str) -> None:
        """A line for the user."""
        self._lines.append(line)

    def end(self, ended: Ended) -> None:
        """The first one counts: what others raise then may come of it."""
        self._ended = self._ended or ended

    def take(self) -> tuple[list[str], Ended | None]:
        """The lines since the last time, and how it ended, if it did."""
        lines, self._lines = self._lines, []
        return lines, self._ended


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker is given."""

    task: Task
    ear: "ActorHandle[Ear]"


@dataclass(frozen=True, slots=True)
class Group:
    """The workers that are asked for."""

    count: int
    cpus: int | None = None
    """processors of each; None for its share of this machine, or one of a cluster's machines"""

    def scale(self, own: bool, say: Say) -> ScalingConfig:
        """What Ray has to find for them.

        Args:
            own: whether Ray is this machine alone.
            say: is told what a cluster lacks, and may still get.

        Raises:
            SettingsError: this machine has less.
        """
        machines = list_machines()
        cpus, gpus = (
            int(sum(getattr(each, kind) for each in machines)) for kind in ("cpus", "gpus")
        )
        of_each = self.cpus or (max(1, cpus // self.count) if own else 1)
        use_gpu = gpus > 0
        kind, there, wanted = (
            ("GPUs", gpus, self.count) if use_gpu else ("processors", cpus, self.count * of_each)
        )
        if wanted > there:
            lacking = f"--num-workers {self.count} needs {wanted} {kind}, and there are {there}"
            if own:
                raise SettingsError(
                    f"{lacking} on this machine. Ask for fewer, or let a Ray cluster do it"
                    " (RAY_ADDRESS, or `ray job submit`)"
                )
            say(f"{lacking} in the cluster: waiting until it has grown")
        resources = {"CPU": float(of_each)} | ({"GPU": 1.0} if use_gpu else {})
        return ScalingConfig(
            num_workers=self.count, use_gpu=use_gpu, resources_per_worker=resources
        )


def train_in_group(task: Task, group: Group, say: Say) -> str:
    """Trains with workers on Ray.

    Args:
        task: what they do.
        group: the workers.
        say: takes lines for the user.

    Returns:
        Where the result lies.

    Raises:
        PixelLMError: as the task.
        LineError: Ray can't be reached, or workers died too often.
    """
    # they find each other here, whatever this machine is called
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths stay what they were
    with (
        connected(say, worker_logs=False) as own,
        tempfile.TemporaryDirectory(prefix="train-") as folder,
    ):
        scaling = group.scale(own, say)
        say(f"starting {group.count} training workers")
        ear = Ear.remote()  # type: ignore[attr-defined]
        job, tries, kept = Job(task, ear), 0, task.count_kept(say)
        while True:
            ended, died = _listen(_make_trainer(job, scaling, folder).fit, ear, say)
            if ended is not None:
                if ended.error is not None:
                    raise ended.error
                return ended.result
            before, kept = kept, task.count_kept(say)
            tries = 1 if kept > before else tries + 1
            if tries > RESTARTS:
                raise LineError(
                    f"the workers died {tries} times after the {kept:,} steps that are kept. Too"
                    f" little memory? {task.needs_less.capitalize()}. Ray says: {died}"
                )
            say(f"a worker died; all begin anew after the {kept:,} steps that are kept")


def _make_trainer(job: Job, scaling: ScalingConfig, folder: str) -> TorchTrainer:
    # nothing is kept in the folder, which is this machine's alone: states are the workers' affair
    return TorchTrainer(
        _work,
        train_loop_config={"job": job},
        scaling_config=scaling,
        torch_config=TorchConfig(timeout_s=SILENCE_SECONDS),
        run_config=RunConfig(  # type: ignore[call-arg]  # type checkers are shown that of Train V1
            name="train",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _work(config: dict[str, Job]) -> None:
    """What every worker does, in its own process."""
    job, peers = config["job"], Together()
    first = peers.rank == 0

    def say(line: str) -> None:
        if first:
            job.ear.say.remote(line)

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    ended = None
    try:
        say(f"{peers.world} workers are there")
        result = job.task.run(ray.train.torch.get_device(), peers, say)
        ended = Ended(result) if first else None
    except Exception as error:
        ended = explain(error, job.task.needs_less, alone=peers.world == 1)
        raise
    finally:
        if ended is not None:
            ray.get(job.ear.end.remote(ended))


def explain(error: Exception, needs_less: str, *, alone: bool) -> Ended | None:
    """How a worker has ended; None where it has lost the others, or its GPU: it can begin anew.

    Args:
        error: by which it ended.
        needs_less: `Task.needs_less`.
        alone: whether there are no others.
    """
    if isinstance(error, torch.OutOfMemoryError):
        why = f"the memory of a GPU is too small: {needs_less}: {error}"
        return Ended(error=LineError(why))
    # a GPU that broke off may be well again in a new process
    if isinstance(error, torch.AcceleratorError if alone else RuntimeError):
        return None
    if not isinstance(error, PixelLMError):
        error.add_note(traceback.format_exc())  # a traceback itself doesn't travel
    return Ended(error=error)


def _listen(
    fit: Callable[[], object], ear: "ActorHandle[Ear]", say: Say
) -> tuple[Ended | None, str]:
    """Passes on what the workers say until they have ended, or died: of what, says Ray."""
    with ThreadPoolExecutor(1) as pool:  # not in this thread, where Ctrl-C must arrive
        training = pool.submit(fit)
        while True:
            _, waiting = wait([training], LISTEN_SECONDS)
            lines, ended = _hear(ear)
            for line in lines:
                say(line)
            if not waiting:
                return ended, _why_died(training)


def _hear(ear: "ActorHandle[Ear]") -> tuple[list[str], Ended | None]:
    heard: tuple[list[str], Ended | None] = ray.get(ear.take.remote())  # type: ignore[assignment]
    return heard


def _why_died(training: "Future[object]") -> str:
    error = training.exception()
    if error is not None and not isinstance(error, TrainingFailedError):
        raise error
    return f"{error}".strip()
