"""What Prometheus is told of a labelling run, through Ray: each node serves it on its metrics port.

Ray puts `ray_` before every name and `_total` behind that of a counter, and adds which node and
which worker it is, so that every replica has its own series. `infra/grafana/pixellm.json` draws
them. Nothing that could be many is a tag: no address, no id, no text.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from ray.util import metrics as ray_metrics

from workers.labels.schema import LabelRow
from workers.meter import Meter, Stage

FLUSH_SECONDS = 1.0
"""Between two times that Ray is told, since Prometheus asks every 5 to 60 seconds. A call of Ray's
took 2 to 3 us and one of ours 1.3 us (one core); asking a GPU for its memory takes longer."""


class Kind(StrEnum):
    """How a number behaves."""

    COUNTER = "counter"
    """only grows; exported with `_total` behind its name"""
    GAUGE = "gauge"
    """as it is now"""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that is kept for each replica."""

    name: str
    kind: Kind
    help: str
    tag: str = ""
    """by which it is told apart; empty where it isn't"""

    @property
    def exported(self) -> str:
        """Its name in Prometheus."""
        return f"ray_{self.name}{'_total' if self.kind is Kind.COUNTER else ''}"


RECORDS = Metric("pixellm_records", Kind.COUNTER, "records that became rows, committed or not yet")
ROWS = Metric("pixellm_rows", Kind.COUNTER, "rows by status, committed or not yet", "status")
TARGETS = Metric("pixellm_targets", Kind.COUNTER, "masks in these rows")
STAGE_SECONDS = Metric(
    "pixellm_stage_seconds", Kind.COUNTER, "seconds that threads spent, by stage", "stage"
)
STEPS = Metric("pixellm_steps", Kind.COUNTER, "steps of the model")
STEP_QUESTIONS = Metric(
    "pixellm_step_questions", Kind.COUNTER, "questions in these steps: by steps, the batch fill"
)
QUESTIONS_WAITING = Metric(
    "pixellm_questions_waiting", Kind.GAUGE, "questions asked of the model and not in its step"
)
COMMITS = Metric("pixellm_commits", Kind.COUNTER, "commits of shards, won or lost", "result")
RETRIES = Metric("pixellm_shard_retries", Kind.COUNTER, "shards begun again since a store was away")
GPU_BYTES = Metric("pixellm_gpu_memory_bytes", Kind.GAUGE, "memory of the GPU that torch has", "of")

METRICS = (
    RECORDS,
    ROWS,
    TARGETS,
    STAGE_SECONDS,
    STEPS,
    STEP_QUESTIONS,
    QUESTIONS_WAITING,
    COMMITS,
    RETRIES,
    GPU_BYTES,
)
"""All there are; a dashboard can show no other."""
Key = tuple[Metric, str]
"""A metric, and the value of its tag."""


class RayMeter(Meter):
    """Adds up what it hears and tells Ray once a second; made in the process that it is of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[Key, float] = {}
        self._levels: dict[Key, float] = {}
        self._next = 0.0
        counters = (each for each in METRICS if each.kind is Kind.COUNTER)
        gauges = (each for each in METRICS if each.kind is Kind.GAUGE)
        self._counters = {each: ray_metrics.Counter(*_described(each)) for each in counters}
        self._gauges = {each: ray_metrics.Gauge(*_described(each)) for each in gauges}

    def spent(self, stage: Stage, seconds: float) -> None:
        self._add({(STAGE_SECONDS, stage.value): seconds})

    def labelled(self, rows: Sequence[LabelRow]) -> None:
        by_status = Counter((ROWS, row.status) for row in rows)
        targets = sum(row.n_targets for row in rows)
        self._add({**by_status, (RECORDS, ""): 1, (TARGETS, ""): targets})

    def stepped(self, questions: int, waiting: int) -> None:
        self._levels[QUESTIONS_WAITING, ""] = waiting
        self._add({(STEPS, ""): 1, (STEP_QUESTIONS, ""): questions})

    def committed(self, won: bool) -> None:
        self._add({(COMMITS, "won" if won else "lost"): 1})

    def retried(self) -> None:
        self._add({(RETRIES, ""): 1})

    def _add(self, sums: Mapping[Key, float]) -> None:
        with self._lock:
            for key, value in sums.items():
                self._sums[key] = self._sums.get(key, 0) + value
            due = time.monotonic() >= self._next
        if due:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            self._next = time.monotonic() + FLUSH_SECONDS
            sums, self._sums = self._sums, {}
            levels = {**self._levels, **dict(_gpu_memory())}
        for key, value in sums.items():
            if value > 0:  # Ray takes no other
                self._counters[key[0]].inc(value, _tags(key))
        for key, value in levels.items():
            self._gauges[key[0]].set(value, _tags(key))


def _described(metric: Metric) -> tuple[str, str, tuple[str, ...]]:
    return metric.name, metric.help, (metric.tag,) if metric.tag else ()


def _tags(key: Key) -> dict[str, str]:
    metric, value = key
    return {metric.tag: value} if metric.tag else {}


def _gpu_memory() -> Iterator[tuple[Key, float]]:
    """Of the device that this process has; without one, nothing."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        yield (GPU_BYTES, "allocated"), torch.cuda.memory_allocated()
        yield (GPU_BYTES, "reserved"), torch.cuda.memory_reserved()
        yield (GPU_BYTES, "total"), total
        yield (GPU_BYTES, "free"), free
