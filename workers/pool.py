"""Ray: whole shards to a pool of replicas that grows and shrinks, and their summaries back.

Ray gives us processes, GPUs, restarts and autoscaling; what counts as done is decided by the
commits in the output and not by Ray.
"""

import logging
import threading
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import ray
import ray.data
from ray.exceptions import RayError

from workers.cluster import Machine, connected, describe_metrics, list_machines
from workers.errands import Assignment, Errand, assigned
from workers.errors import LineError, SettingsError
from workers.logbook import MAX_SETUP_DEATHS, Begun, Book, Logbook
from workers.metrics import RayMeter
from workers.progress import Progress
from workers.settings import LabelSettings
from workers.stopping import Stop, until_stopped
from workers.summaries import Pulse, ShardKey, ShardSummary
from workers.wording import Say

if TYPE_CHECKING:
    from workers.replica import ShardLabeller

Batch = dict[str, Sequence[Any]]
"""Of Ray Data: column -> values; ours has one row and one column."""
PLACE, SUMMARY = "item", "summary"
"""The column of what a replica is given, the place of an errand among all; and of what it gives
back, as JSON. The name of the former is Ray's."""
MOST_BLOCKS = 4_000
"""That Ray Data is given: the driver keeps some KB for each. Where there are more shards, a block
has several, and when its replica dies, those that are committed are found to be so."""
LISTEN_SECONDS = 0.5
"""Between two questions to the book on how far the replicas are."""

RAY_COMPLAINT = (
    'Ray may print a line now that looks like an error, about "constructor arguments in the object '
    'store". It is harmless: workers are restarted all the same'
)
"""Ray Data puts its own arguments there, so that the only way to be without this line would be to
give up restarts (`max_restarts=0`); and Ray's log can only be silenced for all errors at once."""


@dataclass(frozen=True, slots=True)
class PoolSize:
    """How many replicas, and what each of them gets."""

    least: int
    most: int
    cpus: int
    gpus: float


def label_on_ray(
    errands: Sequence[Errand],
    settings: LabelSettings,
    begin: Callable[[], Sequence[Assignment]],
    progress: Progress,
    stop: Stop,
) -> Generator[ShardSummary, None, None]:
    """Labels shards and yields what became of each, in the order in which they finish.

    Args:
        errands: at least one.
        settings: with GPUs and precision settled.
        begin: called once it is sure that there is room for a replica, since it writes to the
            outputs; returns what a replica must know of each run. What lies in other runs is left.
        progress: hears of replicas that are ready, and of records while shards are under way.
        stop: once it has a reason, no shard is begun, and each is told of as `not_begun` when its
            turn comes; after its grace, none is waited for, nor while no replica is ready.

    Raises:
        SettingsError: no machine can hold a replica.
        LineError: the cluster can't be reached, or no replica could be set up.
    """
    as_text = settings.log_format == "text"  # lines of JSON are whole only in the files of workers
    with connected(progress.say, worker_logs=as_text) as own:
        machines = list_machines()
        size = size_pool(settings, machines)
        _check_room(size, machines, own, progress.say)
        if stop.reason:  # asked while Ray was starting
            return
        assignments = begin()
        if not (errands := assigned(errands, assignments)):
            return
        progress.say(f"starting {_describe_size(size)}; the first one loads the model")
        if own:
            progress.say(describe_metrics())
        progress.say(RAY_COMPLAINT)
        logbook = _SharedLogbook()
        flow = _flow(errands, assignments, size, logbook)
        with _listening(logbook, progress, stop, size.gpus):
            try:
                for row in until_stopped(flow.iter_rows(), stop, lambda: progress.replicas > 0):
                    yield ShardSummary.from_json(row[SUMMARY])
            except RayError as error:
                raise LineError(f"Ray gave up: {_last_line(error)}") from error
            finally:  # what is left of the flow says with tracebacks that Ray is gone
                logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)


def size_pool(settings: LabelSettings, machines: Sequence[Machine]) -> PoolSize:
    """Fills in what the settings leave open, from the machines at hand."""
    gpus = settings.num_gpus_per_replica or 0.0
    fitting = sum(int(machine.gpus / gpus) for machine in machines) if gpus else len(machines)
    most = settings.max_replicas or max(settings.min_replicas, fitting)
    share = min((int(machine.cpus) for machine in machines), default=1)
    share //= ceil(most / max(1, len(machines)))
    cpus = settings.replica.num_cpus or (1 if gpus else max(1, share))
    return PoolSize(settings.min_replicas, most, cpus, gpus)


def fair_share(blocks: int, size: PoolSize) -> int:
    """Of a few blocks, how many one replica may be handed: else the first that is ready has all."""
    return ceil(blocks / size.most)


def _flow(
    errands: Sequence[Errand],
    assignments: Sequence[Assignment],
    size: PoolSize,
    logbook: "_SharedLogbook",
) -> "ray.data.Dataset":
    """One block a shard while they are few: what a replica has finished is known at once."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # only of those that raise: Ray restarts those that are killed and counts nothing, `Book` does
    context.max_consecutive_actor_init_deaths = MAX_SETUP_DEATHS
    blocks = min(len(errands), MOST_BLOCKS)
    in_flight = assignments[0].settings.replica.shards_in_flight
    under_way = min(in_flight, fair_share(blocks, size))
    places: Any = range(len(errands))  # which Ray only measures and reads
    return ray.data.from_items(places, override_num_blocks=blocks).map_batches(
        ReplicaActor,
        fn_constructor_args=(errands, assignments, size.cpus, logbook, RayMeter),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=size.least,
            max_size=size.most,
            # Ray never takes back what it has handed to a replica, be another one idle
            max_tasks_in_flight_per_actor=min(2 * under_way, fair_share(blocks, size)),
            max_concurrent_calls_per_actor=under_way,
        ),
        num_cpus=size.cpus,
        num_gpus=size.gpus,
    )


class ReplicaActor:
    """What Ray makes an actor of: a `workers.replica.ShardLabeller`.

    It is imported with the model's code, and only in the process that needs it: for the driver
    that would be seconds and hundreds of MB for nothing.
    """

    def __init__(
        self,
        errands: Sequence[Errand],
        *arguments: Any,  # noqa: ANN401 (those of the labeller)
    ) -> None:
        self._errands = errands
        self._labeller = self.make(*arguments)

    def make(self, *arguments: Any) -> "ShardLabeller":  # noqa: ANN401 (likewise)
        """The labeller; another class may make another one."""
        from workers.replica import ShardLabeller

        return ShardLabeller(*arguments)

    async def __call__(self, batch: Batch) -> AsyncIterator[Batch]:
        """The place of one errand in, one summary out."""
        (place,) = batch[PLACE]
        summary = await self._labeller(self._errands[place])
        yield {SUMMARY: [summary.to_json()]}


class _SharedLogbook(Logbook):
    """The way to the book, from wherever a replica is."""

    def __init__(self) -> None:
        # when its machine is lost it begins anew, and nobody fails for that
        book = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Book)
        self._book: Any = book.remote()  # Ray makes the methods at run time

    def setup_begins(self) -> int:
        deaths: int = ray.get(self._book.setup_begins.remote(_own_name()))
        return deaths

    def setup_ends(self, loaded: bool) -> None:
        ray.get(self._book.setup_ends.remote(_own_name(), loaded))

    def answered(self, records: Mapping[ShardKey, int]) -> None:
        self._book.answered.remote(records)

    def pulse(self) -> Pulse:
        """How far all replicas are."""
        pulse: Pulse = ray.get(self._book.pulse.remote())
        return pulse

    def close(self) -> None:
        """Lets no shard be begun from now on."""
        self._book.close.remote()

    async def begin(self, key: ShardKey) -> Begun:
        begun: Begun = await self._book.begin.remote(key)
        return begun

    async def broke(self, keys: Collection[ShardKey], why: str) -> None:
        await self._book.broke.remote(keys, why)


@contextmanager
def _listening(
    logbook: _SharedLogbook, progress: Progress, stop: Stop, gpus: float
) -> Iterator[None]:
    """Hands on what the replicas tell, while shards are being labelled, and when to stop."""
    ended = threading.Event()

    def listen() -> None:
        before = time.monotonic()
        while not ended.wait(LISTEN_SECONDS):
            with suppress(RayError):  # the book is being made anew, or the cluster is gone
                pulse = logbook.pulse()
                if ended.is_set():  # it came too late, and the next run may listen already
                    return
                progress.hear(pulse)
                before, passed = time.monotonic(), time.monotonic() - before
                stop.spend(pulse.kept * gpus * passed)
                if stop.reason:  # again and again, since a book that is made anew is open
                    logbook.close()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LISTEN_SECONDS)


def _own_name() -> str:
    """Of this worker; Ray restarts one that was killed, at any place, under the same name."""
    return ray.get_runtime_context().get_actor_id() or ""


def _check_room(size: PoolSize, machines: Sequence[Machine], own: bool, say: Say) -> None:
    """Ray waits without a word for a machine that will never come; so look before."""
    if any(each.cpus >= size.cpus and each.gpus >= size.gpus for each in machines):
        return
    needs = f"a replica needs {size.cpus} CPUs and {size.gpus:g} GPUs"
    has = max(machines, key=lambda each: (each.gpus, each.cpus), default=Machine(0, 0))
    largest = f"the largest machine has {has.cpus:g} and {has.gpus:g}"
    if own:
        raise SettingsError(
            f"{needs}, {largest}: lower --num-gpus-per-replica or --replica.num-cpus"
        )
    say(f"{needs}, {largest}: waiting for the cluster to grow")


def _describe_size(size: PoolSize) -> str:
    count = f"{size.least}" if size.least == size.most else f"{size.least} to {size.most}"
    each = f"{size.gpus:g} GPU" if size.gpus else f"{size.cpus} CPU threads"
    return f"{count} replica{'s' * (size.most > 1)} with {each}"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in f"{error}".splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
