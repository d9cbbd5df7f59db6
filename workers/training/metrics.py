"""What a run has measured: a line of JSON for every step, beside its states.

    OUTPUT/metrics/000000501.jsonl    from the step of its name on to the next state

A store can't add lines to a file, so there is one for each state. What was measured after the last
state of a run that was killed is measured again, and the file has the same name then.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict

from pixellm.loop import StepReport
from workers.storage.objects import Store
from workers.storage.uris import join_uri

METRICS = "metrics"
"""Folder of the output."""


class Metrics:
    """The lines since the last state.

    Args:
        store: where the output lies.
        output: its prefix.
        examples: of a step.
        clock: seconds, for the pace.
    """

    def __init__(
        self,
        store: Store,
        output: str,
        examples: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._output, self._examples, self._clock = store, output, examples, clock
        self._lines: list[str] = []
        self._first = 0
        self._before: float | None = None

    def note(self, report: StepReport) -> float | None:
        """Keeps a step; returns examples per second, from the second one on."""
        now, before = self._clock(), self._before
        pace = self._examples / (now - before) if before is not None and now > before else None
        self._before = now
        self._first = self._first or report.step
        values = asdict(report) | {"examples_per_s": pace and round(pace, 2)}
        self._lines.append(json.dumps(values))
        return pace

    def write(self) -> None:
        """Puts what there is into its file; the next line begins another one."""
        if self._lines:
            name = f"{self._first:09d}.jsonl"
            data = "".join(f"{line}\n" for line in self._lines).encode()
            self._store.put(join_uri(self._output, METRICS, name), data)
        self._lines, self._first = [], 0
