"""What the person who started a run sees while it runs: one line that moves, and others.

On a terminal the line is written over itself; elsewhere (a file, a job's log) a line comes every
ten seconds, so that a log of a night stays readable.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TextIO

from workers.logs import Level, json_line
from workers.report import describe_run
from workers.summaries import Pulse, RunSummary, ShardSummary, Tally
from workers.wording import duration

TERMINAL_SECONDS = 0.5
LOG_SECONDS = 10.0
WIDTH = 110  # of the line on a terminal; the rest of an older, longer line is wiped
PATIENCE_SECONDS = 120.0
"""After which it is said that no replica is ready; loading 7B from a slow disk may take longer."""
WORRY = (
    "the model is large or its disk slow, or workers are killed as they start (out of memory?): "
    "Ray's logs, in /tmp/ray/session_latest/logs, say which"
)


class Progress:
    """Counts shards in and tells about them.

    Args:
        stream: where to; standard error, so that what a command prints stays apart.
        name: of the command, before each line.
    """

    def __init__(self, stream: TextIO | None = None, name: str = "label") -> None:
        self._name = name
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._as_json = False
        self._run: str | None = None
        self._lock = threading.Lock()
        self._line_open = False
        self.tally = Tally()
        self._pulse = Pulse()
        self._shards = 0
        self._records: int | None = None
        self._started = time.monotonic()
        self._seconds = 0.0
        self._worried = False

    @property
    def pace(self) -> float:
        """Questions per second, so far or until it was over; 0 when there was nothing to ask."""
        asked = sum(self.tally.counts.values()) - self.tally.reused
        return asked / max(self.seconds, 1e-9)

    @property
    def replicas(self) -> int:
        """That have loaded the model since the start."""
        return self._pulse.replicas

    @property
    def seconds(self) -> float:
        """From when the first replica was ready, so far or until it was over."""
        return self._seconds or time.monotonic() - self._started

    def speak_json(self) -> None:
        """From now on every line is a JSON object, and none moves; see `workers.logs`."""
        self._as_json, self._terminal = True, False

    def about(self, run: str) -> None:
        """Lines that name no other run are about this one from now on."""
        self._run = run

    @contextmanager
    def only_about(self, run: str | None) -> Iterator[None]:
        """For a while; where the work is about several runs (None), it changes nothing."""
        before, self._run = self._run, run or self._run
        try:
            yield
        finally:
            self._run = before

    def say(
        self,
        text: str,
        level: Level = Level.INFO,
        *,
        run: str | None = None,
        shard: str | None = None,
        drop: str | None = None,
    ) -> None:
        """A line of its own.

        Args:
            text: of the line.
            level: how much it matters.
            run: that it is about, if it is about one.
            shard: likewise.
            drop: likewise, by name; see `workers.watching.drops`.
        """
        with self._lock:
            self._wipe()
            self._print(text, level, run=run, shard=shard, drop=drop)

    def complain(self, text: str) -> None:
        """A line on what went wrong."""
        self.say(text, Level.ERROR)

    def conclude(self, summary: RunSummary) -> None:
        """The table at the end goes to standard output, or its numbers to the log."""
        if not self._as_json:
            print(describe_run(summary))
            return
        self._print(
            "the run has ended",
            Level.ERROR if summary.failures else Level.INFO,
            run=summary.run_id,
            shards=summary.shards,
            committed=summary.shards - len(summary.failures),
            rows=dict(summary.counts),
            reasons=dict(summary.errors),
            masks=summary.targets,
            seconds=round(summary.seconds, 3),
            exit_code=summary.exit_code,
        )

    def tell(self, name: str, text: str) -> None:
        """One more line of that table."""
        if self._as_json:
            self.say(f"{name}: {text}")
        else:
            print(f"{name:<10} {text}")

    def add(self, summary: ShardSummary) -> None:
        """Counts a shard in."""
        with self._lock:
            self.tally.add(summary)
            if self._is_over and not self._seconds:  # what Ray still takes to end is no work
                self._seconds = self.seconds
        if summary.error is not None:
            self.say(
                f"shard {summary.shard_id} failed: {summary.error}",
                Level.ERROR,
                run=summary.run_id,
                shard=summary.shard_id,
            )

    def hear(self, pulse: Pulse) -> None:
        """Takes in how far the replicas are; pace is measured from when the first one is ready."""
        # whoever counts them begins anew when its machine is lost
        pulse = replace(pulse, replicas=max(pulse.replicas, self._pulse.replicas))
        first = pulse.replicas and not self._pulse.replicas
        with self._lock:
            self._pulse = pulse
            waited, now = time.monotonic() - self._started, time.monotonic()
            self._started = now if first else self._started
        if first:
            self.say(f"the first replica has loaded the model, after {duration(waited)}")
        elif not pulse.replicas and waited > PATIENCE_SECONDS and not self._worried:
            self._worried = True
            self.say(f"no replica is ready after {duration(waited)}: {WORRY}", Level.WARNING)

    @contextmanager
    def running(self, shards: int, records: int | None = None) -> Iterator[None]:
        """Shows the line while shards are being labelled.

        Args:
            shards: how many.
            records: in all of them; None where that isn't known before they are read.
        """
        self._shards, self._records, self._started = shards, records, time.monotonic()
        self.tally, self._pulse, self._seconds = Tally(), Pulse(), 0.0
        ended = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(ended,), daemon=True)
        ticker.start()
        try:
            yield
        finally:
            ended.set()
            ticker.join()
            with self._lock:
                self._show(final=True)
                self._seconds = self.seconds

    def line(self, seconds: float) -> str:
        """The line, `seconds` after the first replica was ready."""
        tally, pace = self.tally, max(seconds, 1e-9)
        shards = tally.done + len(tally.failures)
        records = max(tally.records, self._pulse.records)
        parts = [
            f"{shards:,}/{self._shards:,} shards",
            f"{records:,}{f'/{self._records:,}' if self._records else ''} records",
            f"{records / pace:,.1f} records/s",
            f"{tally.targets / pace:,.1f} targets/s",
            f"{tally.counts['rejected_input']:,} rejected",
            f"{tally.counts['failed'] + len(tally.failures):,} failed",
        ]
        done, total = (records, self._records) if self._records else (shards, self._shards)
        if 0 < done < total:
            parts.append(f"{duration(seconds / done * (total - done))} left")
        return "  ".join(parts)

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(TERMINAL_SECONDS if self._terminal else LOG_SECONDS):
            with self._lock:
                # a line of a log is there for good: none before work begins, and the last one once
                if self._terminal or (self._pulse.replicas and not self._is_over):
                    self._show()

    @property
    def _is_over(self) -> bool:
        return 0 < self._shards <= self.tally.done + len(self.tally.failures)

    def _show(self, *, final: bool = False) -> None:
        text = self.line(self.seconds)
        if not self._terminal:
            self._print(text)
            return
        end = "\n" if final else ""
        print(f"\r{text[:WIDTH]:<{WIDTH}}", end=end, file=self._stream, flush=True)
        self._line_open = not final

    def _print(self, text: str, level: Level = Level.INFO, **facts: object) -> None:
        line = f"{self._name}: {text}"
        if self._as_json:
            line = json_line(
                text, level, self._name, **{**facts, "run": facts.get("run") or self._run}
            )
        print(line, file=self._stream, flush=True)

    def _wipe(self) -> None:
        if self._line_open:
            print(f"\r{'':<{WIDTH}}\r", end="", file=self._stream, flush=True)
            self._line_open = False
