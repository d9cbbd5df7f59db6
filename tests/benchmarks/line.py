"""The part `line`: how near the whole job comes to what its model alone can do.

alone    two processes that hold a model each, and all that they are asked ready at hand
job      jobs/label.py, real Ray and two replicas: from a folder of files to committed labels
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image

from pixellm.answers import DecodeSettings
from pixellm.checkpoints import load_checkpoint, save_checkpoint
from pixellm.drawn.questions import ask
from pixellm.drawn.scenes import TEST_SEEDS, draw_scene, render
from pixellm.engine.engine import Engine, Job
from pixellm.engine.rows import Sample
from pixellm.images import prepare_image
from pixellm.tiny import tiny_checkpoint
from tests.benchmarks.inputs import PHOTO, SHIPPED, TOY_PHOTO
from tests.benchmarks.options import Options
from tests.benchmarks.report import Table
from tests.benchmarks.timing import say, spread
from tests.benchmarks.watched import (
    QUESTION_SECONDS,
    Clocked,
    JobNotes,
    ReplicaNotes,
    Sleeping,
)
from workers.model_thread import Asking
from workers.records.pictures import PictureLimits, decode_picture
from workers.settings import Replica

REPLICAS = 2
SHARDS_AT_ONCE = Replica().shards_in_flight
LIST = "list.jsonl"
START_SECONDS = 600.0
"""That a process waits for the other one to be ready."""
COLUMNS = ("contestant", "records", "questions", "s", "records per s", "of the model alone")
SHARES = (
    "contestant",
    "s until ready",
    "s after it",
    "% in the model",
    "% before",
    "% between",
    "% after",
    "model's ms per question",
    "of these on a processor",
    "other processor ms per record",
    "model's part of processor time",
)
NOTES = (
    "whole job: a process that runs jobs/label.py with two replicas of one processor each, from a"
    " local folder into another. Its seconds go from when the replicas have loaded the model (on"
    " average) to the last commit.",
    "model alone: two processes with one thread of torch each, which take every second record each."
    " Their images are decoded and resized before; its seconds go from there to the last answer."
    " Reading, decoding, resizing, the statistics of masks, rows, Parquet and commits are the job's"
    " alone, and on a machine of two cores they share these with the model.",
)
IDEAL_NOTE = (
    f"Ideal: questions times {QUESTION_SECONDS} s over {REPLICAS}. A sleep takes longer than it is"
    " told to, on a busy machine much longer: so the model alone isn't ideal either."
)
SHARES_NOTES = (
    "s until ready: from the start of the command until a replica had loaded the model; most of it"
    " is Ray's start and imports. s after it: all that follows, with the end of Ray and the"
    " manifest.",
    "A replica's time, from when it was ready to the last commit of the job: its model's thread is"
    " in the model, or it is before its first question, between two steps, or after its last"
    " answer.",
    "Other processor time: of the replica's process, without the model's. What the driver and Ray's"
    " own processes need is not in it. The last column is what could be reached at best where all"
    " processors are taken by replicas.",
)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked, and whom."""

    title: str
    folder: Path
    """with `LIST`, and the images that it names"""
    model: Path
    """that the replicas load, also where another one answers in its place"""
    asleep: bool
    """whether that other one answers, which sleeps"""
    shard: int
    """most records of a shard"""
    tokens: int
    """of the longest answer"""

    def records(self) -> list[tuple[Path, tuple[str, ...]]]:
        """Images, and what is asked about each."""
        lines = (self.folder / LIST).read_text(encoding="utf-8").splitlines()
        values = [json.loads(line) for line in lines]
        return [(self.folder / each["image"], tuple(each["instructions"])) for each in values]


@dataclass(frozen=True, slots=True)
class Turn:
    """How long all records took once, and those who did it."""

    replicas: Sequence[ReplicaNotes]
    end: float
    """seconds since 1970, as `ReplicaNotes.ready`"""
    targets: int
    """masks that were found"""
    around: tuple[float, float] = (0.0, 0.0)
    """seconds before the replicas were ready, and after the end"""

    @property
    def seconds(self) -> float:
        """From when the replicas were ready, on average, to the end."""
        return self.end - self.ready

    @property
    def ready(self) -> float:
        """When the replicas were ready, on average."""
        return fmean(each.ready for each in self.replicas)


@dataclass(slots=True, eq=False)
class Racer:
    """One of those that are compared, and its turns."""

    name: str
    run: Callable[[], Turn]
    turns: list[Turn] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """Of every turn."""
        return [turn.seconds for turn in self.turns]


def run(options: Options) -> Iterator[Table]:
    """Two tables for each kind of model."""
    for make in (make_bound, make_sleeping):
        with tempfile.TemporaryDirectory(prefix="line-") as folder:
            load = make(Path(folder), options.toy)
            # starting Ray takes longer than all else of a toy
            yield from measure(load, 1 if options.toy else options.repetitions)


def measure(load: Load, repetitions: int) -> list[Table]:
    """Lets the job and the model alone take turns."""
    alone = Racer("model alone", partial(run_alone, load))
    job = Racer("whole job", partial(run_job, load))
    racers = [alone, job]
    for number in range(repetitions):
        for racer in racers if number % 2 == 0 else reversed(racers):
            racer.turns.append(racer.run())
            taken = f"{racer.name}: {racer.seconds[-1]:.2f} s"
            say(f"{load.title}, repetition {number + 1} of {repetitions}: {taken}")
    return [make_table(load, alone, job), make_shares(load, racers)]


# ---- what is asked ----


def make_bound(folder: Path, toy: bool) -> Load:
    """Drawn scenes of the size of photos, with many questions each: the model is the bottleneck."""
    count, each, size = (12, 2, TOY_PHOTO) if toy else (256, 16, PHOTO)
    lines = []
    for number in range(count):
        scene = draw_scene(TEST_SEEDS[number])
        rng = np.random.default_rng([7, scene.seed])
        name = f"{number:04d}.jpg"
        Image.fromarray(render(scene, *size).rgb).save(folder / name, quality=90)
        lines.append((name, [ask(scene, rng).text for _ in range(each)]))
    _write_list(folder, lines)
    if not toy:
        title = f"the shipped model, {each} instructions per image"
        return Load(title, folder, SHIPPED, asleep=False, shard=8, tokens=80)
    return Load("a toy", folder, _save_tiny(folder), asleep=False, shard=3, tokens=20)


def make_sleeping(folder: Path, toy: bool) -> Load:
    """Many small records with one question each, for a model that sleeps over it."""
    count = 200 if toy else 8_000
    names = [f"{number:02d}.png" for number in range(64)]
    for number, name in enumerate(names):
        Image.new("RGB", (32, 24), (number * 4, 255 - number * 4, 128)).save(folder / name)
    lines = [(names[at % len(names)], [f"the thing number {at}"]) for at in range(count)]
    _write_list(folder, lines)
    title = f"a model that sleeps {1000 * QUESTION_SECONDS:g} ms a question"
    return Load(title, folder, SHIPPED, asleep=True, shard=8 if toy else 64, tokens=80)


def _write_list(folder: Path, lines: Sequence[tuple[str, Sequence[str]]]) -> None:
    texts = [json.dumps({"image": name, "instructions": asked}) for name, asked in lines]
    (folder / LIST).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def _save_tiny(folder: Path) -> Path:
    tiny = tiny_checkpoint(6)
    save_checkpoint(tiny.model, tiny.tokenizer, folder / "_model")
    return folder / "_model"


# ---- the job ----


def run_job(load: Load) -> Turn:
    """Labels everything with jobs/label.py.

    Raises:
        RuntimeError: it failed, or left something unanswered.
    """
    with tempfile.TemporaryDirectory(prefix="line-") as folder:
        output = Path(folder) / "out"
        job = JobNotes.of("sleeping" if load.asleep else "watched", output, _flags(load))
    asked = sum(len(questions) for _, questions in load.records())
    if job.answered != asked:
        raise RuntimeError(f"of {asked} questions {job.answered} were answered")
    ready = fmean(each.ready for each in job.replicas)
    around = (ready - job.started, job.ended - job.commits[-1])
    return Turn(job.replicas, job.commits[-1], job.targets, around)


def _flags(load: Load) -> list[str]:
    return [
        *("--input", str(load.folder / LIST), "--model", str(load.model)),
        *("--min-replicas", f"{REPLICAS}", "--max-replicas", f"{REPLICAS}"),
        *("--replica.num-cpus", "1", "--num-gpus-per-replica", "0"),
        *("--reading.records-per-shard", f"{load.shard}"),
        *("--decoding.max-new-tokens", f"{load.tokens}"),
    ]


# ---- the model alone ----

_barrier: Barrier | None = None


def run_alone(load: Load) -> Turn:
    """Asks two models in processes of their own, which begin in the same moment."""
    context = get_context("spawn")
    start = context.Barrier(REPLICAS)
    with ProcessPoolExecutor(REPLICAS, context, _remember, (start,)) as pool:
        done = list(pool.map(partial(answer_share, load), range(REPLICAS)))
    replicas = [notes for notes, _ in done]
    targets = sum(found for _, found in done)
    return Turn(replicas, max(each.last for each in replicas), targets)


def _remember(start: Barrier) -> None:
    global _barrier
    _barrier = start


def answer_share(load: Load, share: int) -> tuple[ReplicaNotes, int]:
    """Answers every second record from `share` on; also returns the masks found.

    As many records are under way as a replica's shards have: with all at once, the models of this
    benchmark are slower, since what they work on leaves the processor's cache.
    """
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(load.model)
    side = checkpoint.model.config.image_side
    settings = DecodeSettings(max_new_tokens=load.tokens)
    engine = Clocked(Sleeping(QUESTION_SECONDS) if load.asleep else Engine(checkpoint, settings))
    samples = []
    for path, questions in load.records()[share::REPLICAS]:
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


# ---- tables ----


def ideal_seconds(load: Load) -> float:
    """What a model that sleeps needs where it never waits."""
    questions = sum(len(asked) for _, asked in load.records())
    return questions * QUESTION_SECONDS / REPLICAS


def make_table(load: Load, alone: Racer, job: Racer) -> Table:
    """Records per second, and how much that is of what could be."""
    records = load.records()
    counts = [f"{len(records):,}", f"{sum(len(asked) for _, asked in records):,}"]
    columns, notes, goals = list(COLUMNS), list(NOTES), [alone.seconds]
    if load.asleep:
        columns.append("of the ideal")
        notes.append(IDEAL_NOTE)
        goals.append([ideal_seconds(load)] * len(job.turns))

    def row(racer: Racer) -> list[str]:
        rates = [len(records) / each for each in racer.seconds]
        ratios = [
            spread([best / own for best, own in zip(goal, racer.seconds, strict=True)])
            for goal in goals
        ]
        return [racer.name, *counts, spread(racer.seconds), spread(rates), *ratios]

    rows = [row(racer) for racer in (alone, job)]
    raw = {racer.name: racer.seconds for racer in (alone, job)}
    return Table(f"The whole job: {load.title}", columns, rows, notes, raw, _check(alone, job))


def _check(alone: Racer, job: Racer) -> list[str]:
    """Masks may differ at their edges with how many questions are under way; not their number."""
    one, other = alone.turns[0].targets, job.turns[0].targets
    return [f"{one} masks alone, {other} in the job"] if abs(one - other) > 0.01 * one else []


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the time of a turn went; means over its replicas, in shares of its seconds."""

    model: float
    before: float
    between: float
    after: float

    @classmethod
    def of(cls, turn: Turn) -> "Shares":
        """The four of them are 1 together."""
        total = turn.seconds
        model = fmean(each.model_seconds for each in turn.replicas) / total
        before = fmean(each.first - each.ready for each in turn.replicas) / total
        after = fmean(turn.end - each.last for each in turn.replicas) / total
        return cls(model, before, 1 - model - before - after, after)


def make_shares(load: Load, racers: Sequence[Racer]) -> Table:
    """Where the time went."""
    rows, raw = list[list[str]](), dict[str, Sequence[float]]()
    for racer in racers:
        shares = [Shares.of(turn) for turn in racer.turns]
        around = [turn.around for turn in racer.turns]
        raw[f"{racer.name}, until ready"] = [before for before, _ in around]
        raw[f"{racer.name}, in the model"] = [each.model for each in shares]
        times = [spread([each[at] for each in around]) for at in (0, 1)]
        rows.append(
            [
                racer.name,
                *(times if any(map(sum, around)) else ["–", "–"]),
                *(
                    f"{100 * fmean(getattr(each, name) for each in shares):.1f}"
                    for name in ("model", "before", "between", "after")
                ),
                *_costs(racer, len(load.records())),
            ]
        )
    return Table(f"Where the time went: {load.title}", SHARES, rows, SHARES_NOTES, raw)


def _costs(racer: Racer, records: int) -> list[str]:
    """Milliseconds: of the model for a question, and of the rest for a record."""
    notes = [each for turn in racer.turns for each in turn.replicas]
    questions = sum(each.questions for each in notes)
    model, on_cpu, total = (
        sum(getattr(each, name) for each in notes)
        for name in ("model_seconds", "model_cpu", "all_cpu")
    )
    other = (total - on_cpu) / (records * len(racer.turns))
    return [
        f"{1000 * model / questions:.2f}",
        f"{1000 * on_cpu / questions:.2f}",
        f"{1000 * other:.2f}",
        f"{on_cpu / total:.3f}",
    ]
