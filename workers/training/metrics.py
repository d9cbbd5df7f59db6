"""What a run has measured: a line of JSON for every step and evaluation, beside its states.

    OUTPUT/metrics/000000501.jsonl    from the step of its name on to the next state

A store can't add lines to a file, so there is one for each state. What was measured after the last
state of a run that was killed is measured again, and the file has the same name then.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pixellm.loop import StepReport
from workers.storage.objects import Store
from workers.storage.uris import join_uri
from workers.training.board import Board
from workers.training.evaluation import Evaluation

METRICS = "metrics"
"""Folder of the output."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a step took."""

    examples_per_s: float | None
    """None of the first"""
    gpu_gb: float | None
    """most memory of this worker's GPU that was in use at once; None without one"""


class Metrics:
    """The lines since the last state.

    Args:
        store: where the output lies.
        output: its prefix.
        examples: of a step.
        clock: seconds, for the pace.
        board: gets the same.
    """

    def __init__(
        self,
        store: Store,
        output: str,
        examples: int,
        clock: Callable[[], float] = time.monotonic,
        board: Board | None = None,
    ) -> None:
        self._store, self._output, self._examples, self._clock = store, output, examples, clock
        self._board = board
        self._lines: list[str] = []
        self._first = 0
        self._written = False
        self._before: float | None = None

    def note(self, report: StepReport) -> Measured:
        """Keeps a step, whose time is that since the step or evaluation before."""
        now, before = self._clock(), self._before
        pace = self._examples / (now - before) if before is not None and now > before else None
        self._before = now
        if self._written:
            self._lines, self._first, self._written = [], 0, False
        measured = Measured(pace and round(pace, 2), _take_peak())
        self._add(report.step, asdict(report) | asdict(measured))
        if self._board is not None:
            self._board.note_step(report, asdict(measured))
        return measured

    def note_scores(self, seen: Evaluation) -> None:
        """Keeps an evaluation, after the step that it is about."""
        values = {
            "step": seen.step,
            "scores": dict(seen.scores),
            "questions": seen.questions,
            "left_out": dict(seen.left_out),
            "best_step": seen.best.step if seen.best else None,
            "seconds": round(seen.seconds, 2),
            "gpu_gb": _take_peak(),
        }
        self._add(seen.step + (not self._lines), values)
        self._before = self._clock()
        if self._board is not None:
            self._board.note_scores(seen)

    def write(self) -> None:
        """Puts what there is into its file; the next step begins another one."""
        if self._lines:
            name = f"{self._first:09d}.jsonl"
            data = "".join(f"{line}\n" for line in self._lines).encode()
            self._store.put(join_uri(self._output, METRICS, name), data)
            self._written = True
        if self._board is not None:
            self._board.flush()

    def _add(self, first: int, values: dict[str, Any]) -> None:
        """A line; `first` names its file if it begins one."""
        self._first = self._first or first
        self._lines.append(json.dumps(values))


def _take_peak() -> float | None:
    """Most GB of the GPU that were in use at once since it was last asked."""
    if not torch.cuda.is_available():
        return None
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 3)
