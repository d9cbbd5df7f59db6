"""The part `line`: how near the whole job comes to what its model alone can do.

alone    processes that hold a model each, and all that they are asked ready at hand
job      jobs/label.py, real Ray and as many replicas: from a folder of files to committed labels
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import fmean

import torch

from pixellm.answers import DecodeSettings
from pixellm.checkpoints import load_checkpoint
from pixellm.engine.engine import Engine, Job
from pixellm.engine.rows import Sample
from pixellm.images import prepare_image
from tests.benchmarks.clocked import QUESTION_SECONDS, Clocked, Sleeping
from tests.benchmarks.inputs import TOYS, WORKLOADS
from tests.benchmarks.line_loads import LIST, Load, make_bound, make_deep, make_large, make_sleeping
from tests.benchmarks.line_tables import Racer, Turn, make_shares, make_table
from tests.benchmarks.notes import ReplicaNotes
from tests.benchmarks.options import OptionError, Options
from tests.benchmarks.report import Table
from tests.benchmarks.timing import race
from tests.benchmarks.watched import JobNotes
from workers.asking import Asking
from workers.records.pictures import PictureLimits, decode_picture
from workers.settings import Replica

SHARDS_AT_ONCE = Replica().shards_in_flight
START_SECONDS = 600.0
"""That a process waits for the other one to be ready."""


LOADS: Mapping[str, Callable[[Path, bool], Load]] = {
    "shipped": make_bound,
    "middle": make_large,
    "sleeping": make_sleeping,
    "sleeping-many": make_deep,
}
"""By the names of --models; those of other parts mean nothing here."""


def run(options: Options) -> Iterator[Table]:
    """Two tables for each kind of model."""
    for make in choose_loads(options.models):
        with tempfile.TemporaryDirectory(prefix="line-") as folder:
            load = replace(make(Path(folder), options.toy), replicas=options.replicas)
            yield from measure(load, options.repetitions)


def choose_loads(names: Sequence[str] | None) -> list[Callable[[Path, bool], Load]]:
    """Those of --models; all, where it only has names of other parts.

    Raises:
        OptionError: a name that no part knows.
    """
    for name in names or ():
        if name not in {*LOADS, *WORKLOADS, *TOYS}:
            raise OptionError(f"--models {name}: known are {', '.join(LOADS)}")
    own = [name for name in names or () if name in LOADS] or list(LOADS)
    return [LOADS[name] for name in own]


def measure(load: Load, repetitions: int) -> list[Table]:
    """Lets the job and the model alone take turns."""
    alone = Racer("model alone", partial(run_alone, load))
    job = Racer("whole job", partial(run_job, load))
    race([alone, job], repetitions, f"{load.name}, ")
    return [make_table(load, alone, job), make_shares(load, [alone, job])]


# ---- the job ----


def run_job(load: Load) -> Turn:
    """Labels everything with jobs/label.py.

    Raises:
        RuntimeError: it failed, or left something unanswered.
    """
    with tempfile.TemporaryDirectory(prefix="line-") as folder:
        output = Path(folder) / "out"
        labeller = f"sleeping-{load.asleep}" if load.asleep else "watched"
        job = JobNotes.of(labeller, output, _flags(load))
    asked = sum(len(questions) for _, questions in load.records())
    if job.answered != asked:
        raise RuntimeError(f"of {asked} questions {job.answered} were answered")
    ready = fmean(each.ready for each in job.replicas)
    around = (ready - job.started, job.ended - job.commits[-1])
    return Turn(job.replicas, job.commits[-1], job.targets, around)


def _flags(load: Load) -> list[str]:
    return [
        *("--input", str(load.folder / LIST), "--model", str(load.model)),
        *("--min-replicas", f"{load.replicas}", "--max-replicas", f"{load.replicas}"),
        *("--replica.num-cpus", "1", "--num-gpus-per-replica", "0"),
        *("--reading.records-per-shard", f"{load.shard}"),
        *("--decoding.max-new-tokens", f"{load.tokens}"),
    ]


# ---- the model alone ----

_barrier: Barrier | None = None


def run_alone(load: Load) -> Turn:
    """Asks models in processes of their own, which begin in the same moment."""
    context = get_context("spawn")
    start = context.Barrier(load.replicas)
    with ProcessPoolExecutor(load.replicas, context, _remember, (start,)) as pool:
        done = list(pool.map(partial(answer_share, load), range(load.replicas)))
    replicas = [notes for notes, _ in done]
    targets = sum(found for _, found in done)
    return Turn(replicas, max(each.last for each in replicas), targets)


def _remember(start: Barrier) -> None:
    global _barrier
    _barrier = start


def answer_share(load: Load, share: int) -> tuple[ReplicaNotes, int]:
    """Answers one replica's share of the records; also returns the masks found.

    As many records are under way as a replica's shards have: with all at once, the models of this
    benchmark are slower, since what they work on leaves the processor's cache.
    """
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(load.model)
    side = checkpoint.model.config.image_side
    settings = DecodeSettings(max_new_tokens=load.tokens)
    sleeping = Sleeping(QUESTION_SECONDS, load.asleep)
    engine = Clocked(sleeping if load.asleep else Engine(checkpoint, settings))
    samples = []
    for path, questions in load.records()[share :: load.replicas]:
        picture = decode_picture(path.read_bytes(), PictureLimits())
        samples.append(Sample(prepare_image(picture.rgb, side), questions))
    if _barrier is not None:
        _barrier.wait(START_SECONDS)
    ready, cpu = time.time(), time.process_time()
    jobs = answer_in_turn(engine, samples, SHARDS_AT_ONCE * load.shard)
    return engine.notes(ready, time.process_time() - cpu), sum(map(_count_targets, jobs))


def answer_in_turn(engine: Asking, samples: Sequence[Sample], most: int) -> list[Job]:
    """Answers all samples, with no more than so many under way; as they are done."""
    waiting, done, under_way = list(reversed(samples)), list[Job](), 0
    while waiting or engine.busy:
        while waiting and under_way < most:
            engine.add(waiting.pop())
            under_way += 1
        ended = engine.step()
        done += ended
        under_way -= len(ended)
    return done


def _count_targets(job: Job) -> int:
    return sum(len(row.answer.targets) for row in job.rows if row.answer)
