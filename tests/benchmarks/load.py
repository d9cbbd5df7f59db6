"""An engine under steady load, and where its time goes.

As many questions wait as may be under way: whatever ends is replaced, as on a long run. What is
measured are windows between two moments at which answers came out, after a warm-up. The model and
the engine are watched from outside: methods are wrapped for as long as it takes.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from unittest.mock import patch

from pixellm.engine import finishing, generation
from pixellm.engine.engine import Engine, Job
from pixellm.engine.prefixes import PrefixPlan
from pixellm.engine.replays import Replays
from pixellm.engine.rows import Row
from pixellm.errors import Unanswerable
from tests.benchmarks.answer_lengths import Asked, Forced
from tests.benchmarks.ceilings import Clock, Mark, seconds_between
from tests.benchmarks.roofline import Answered, Sizes

PICTURES, AHEAD = "pictures", "pictures ahead"
PREFIXES, STEPS = "prefixes", "steps"
SECTIONS = (
    *(PICTURES, PREFIXES, "planning", STEPS, "output layer"),
    *(AHEAD, "pixel decoder", "cutting"),
)
"""Where time goes, in order; what is left is `OTHER`."""
BESIDE = (AHEAD, "pixel decoder", "cutting")
"""On a GPU they run beside the steps, in a stream of their own: their time is part of no whole."""
OTHER = "other"
WORTH_IT = 32
"""Questions that a window has at least, where more than one is under way: the engine makes the
masks of several answers together, and each window should hold more than one such moment."""


# ---- where time goes ----


class Watch:
    """Takes the time of sections of an engine's work, and counts what its steps must read."""

    def __init__(self, engine: Engine, clock: Clock, sizes: Sizes) -> None:
        self._engine, self._clock, self._sizes = engine, clock, sizes
        self._marks = list[tuple[str, Mark, Mark]]()
        self._bytes = self._rows = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Watches while it lasts."""
        model = self._engine.model
        places: Sequence[tuple[Any, str, str]] = (
            (model, "encode_images", PICTURES),
            (generation, "lay_out", "planning"),
            (generation, "lay_out_entering", "planning"),
            (generation, "plan_step", "planning"),
            (Replays, "__call__", STEPS),  # not inside: a graph records no times
            (model.language.lm_head, "forward", "output layer"),
            (model.codebook, "forward", "pixel decoder"),
            (model, "decode", "pixel decoder"),
            (finishing, "cut_masks", "cutting"),
        )
        generator = self._engine.generator
        land = generator.land  # when it begins, all are there that the step brings on

        def watched(ended: list[Row]) -> None:
            self._look_at_rows()
            land(ended)

        with ExitStack() as stack:
            stack.enter_context(patch.object(generator, "land", watched))
            for owner, name, section in places:
                timed = self._timed(section, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, timed))
            yield

    def _timed(self, section: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            start = self._clock.mark()
            result = work(*arguments, **named)
            place = section
            if section == PICTURES and self._clock.aside:
                place = AHEAD
            elif section == STEPS and any(isinstance(each, PrefixPlan) for each in arguments):
                place = PREFIXES
            self._marks.append((place, start, self._clock.mark()))
            return result

        return wrapped

    def _look_at_rows(self) -> None:
        schedule = self._engine.generator.schedule
        if not self._engine.in_step:
            return
        rows = (row.read for row in schedule.rows)
        self._bytes += self._sizes.must_read(rows, len(schedule.pictures))
        self._rows += len(schedule.rows)

    @property
    def beside(self) -> Sequence[str]:
        """Sections that run beside the others."""
        return BESIDE if self._clock.on_gpu else ()

    def wait(self) -> None:
        """Waits until the device has done all that it was asked."""
        self._clock.wait()

    def collect(self, window: "Window") -> None:
        """Tells a window what was seen since the last time; after `wait`."""
        window.sections = dict.fromkeys(SECTIONS, 0.0)
        for section, start, stop in self._marks:
            window.sections[section] += seconds_between(start, stop)
        window.must_read, window.rows = self._bytes, self._rows
        self._marks.clear()
        self._bytes = self._rows = 0


# ---- load ----


class Feed:
    """Keeps an engine busy.

    Args:
        engine: without anything to do yet.
        asked: questions, over and over again.
        backlog: questions that wait at least; 0: the next comes when all before are answered.
    """

    def __init__(self, engine: Engine, asked: Asked, backlog: int) -> None:
        self.engine, self._samples, self._backlog = engine, cycle(asked.samples), backlog

    def step(self) -> list[Job]:
        """One step of the engine; the samples that are answered with it."""
        waiting = self.engine.generator.schedule.waiting
        while len(waiting) < self._backlog or not self.engine.busy:
            self.engine.add(next(self._samples))
        return self.engine.step()


@dataclass(slots=True, eq=False)
class Window:
    """What was done in a while."""

    images: int = 0
    answered: list[Answered] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    """seconds of each step of the engine, all that belongs to it counted"""
    rows: int = 0
    """questions under way, of all steps together"""
    sections: dict[str, float] = field(default_factory=dict)
    """seconds"""
    must_read: int = 0
    """bytes, of all steps"""
    seconds: float = 0.0
    recorded: int = 0
    """recordings that were made"""


class WrongAnswerError(Exception):
    """The engine said something else than it was given."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long is measured."""

    windows: int
    """most windows; one at least, if any is wanted"""
    seconds: float
    """for all windows; what is longer ends with its first answers"""
    warm_up: float
    """seconds before them, at most: it is over when a window's worth of answers came without a step
    that had to be recorded"""


def measure(feed: Feed, forced: Forced, watch: Watch, pace: Pace, rows: int) -> list[Window]:
    """Warms up, and measures.

    Args:
        feed: of an engine.
        forced: what it has to say.
        watch: of the engine.
        pace: how long.
        rows: that may be under way.

    Raises:
        WrongAnswerError: an answer is wrong.
        Unanswerable: one is missing.
    """
    enough = max(WORTH_IT, rows) if rows > 1 else 2
    with watch.attached():
        _warm_up(feed, forced, enough, time.perf_counter() + pace.warm_up)
        watch.wait()
        watch.collect(Window())  # of the warm-up
        windows = list[Window]()
        until = time.perf_counter() + pace.seconds
        while len(windows) < pace.windows and (not windows or time.perf_counter() < until):
            windows.append(_measure_one(feed, forced, watch, enough, until))
    return windows


def _warm_up(feed: Feed, forced: Forced, enough: int, until: float) -> None:
    generator, before = feed.engine.generator, -1
    while generator.recorded != before and time.perf_counter() <= until:
        before = generator.recorded
        _run(feed, forced, enough, until)


def _measure_one(feed: Feed, forced: Forced, watch: Watch, enough: int, until: float) -> Window:
    start, before = time.perf_counter(), feed.engine.generator.recorded
    window = _run(feed, forced, enough, until)
    watch.wait()
    window.seconds = time.perf_counter() - start
    window.recorded = feed.engine.generator.recorded - before
    watch.collect(window)
    whole = (took for name, took in window.sections.items() if name not in watch.beside)
    window.sections[OTHER] = window.seconds - sum(whole)
    return window


def _run(feed: Feed, forced: Forced, enough: int, until: float) -> Window:
    """Until so many questions are answered, or the first are behind a time."""
    window = Window()
    while len(window.answered) < enough:
        start = time.perf_counter()
        done = feed.step()
        window.steps.append(time.perf_counter() - start)
        for job in done:
            window.images += 1
            window.answered += check(job, forced)
        if done and time.perf_counter() > until:
            break
    return window


def check(job: Job, forced: Forced) -> list[Answered]:
    """What was answered.

    Raises:
        WrongAnswerError: an answer has other ids than it was given, or no numbers.
        Unanswerable: a question has none, since it did not fit into memory alone.
    """
    answered = list[Answered]()
    for row in job.rows:
        if row.answer is None:
            raise Unanswerable(row.failure.message if row.failure else "no answer")
        if tuple(row.answer.token_ids) != tuple(forced.script_of(row.number)):
            raise WrongAnswerError(f"question {row.number} has another answer than it was given")
        if not all(map(math.isfinite, row.logprobs)):
            raise WrongAnswerError(f"question {row.number}: the model gives no numbers")
        runs = sum(len(target.runs.starts) for target in row.answer.targets)
        answered.append(Answered(len(row.answer.token_ids), len(row.answer.targets), runs))
    return answered


def total(windows: Sequence[Window]) -> Window:
    """All windows as one."""
    seconds = Counter[str]()
    for window in windows:
        seconds.update(window.sections)
    return Window(
        images=sum(window.images for window in windows),
        answered=[each for window in windows for each in window.answered],
        steps=[each for window in windows for each in window.steps],
        rows=sum(window.rows for window in windows),
        sections=dict(seconds),
        must_read=sum(window.must_read for window in windows),
        recorded=sum(window.recorded for window in windows),
        seconds=sum(window.seconds for window in windows),
    )
