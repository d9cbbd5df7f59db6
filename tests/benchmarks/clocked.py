"""Models with a clock around them, and one that sleeps instead of thinking."""

import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from pixellm.answers import Answer
from pixellm.engine.engine import Job
from pixellm.engine.rows import Picture, Row, Sample
from tests.benchmarks.notes import ReplicaNotes
from workers.asking import Asking

T = TypeVar("T")

QUESTION_SECONDS = 0.005
"""That a sleeping model takes for a question."""
MANY_AT_ONCE = 16
"""Questions of a step, where a sleeping model takes more than one."""
WAKING_SECONDS = 0.0003
"""That a sleeper may be woken too late."""


class Sleeping:
    """A model that sleeps over its questions, and then says that nothing matches.

    A step takes as long as if it had as many questions as it may have, as on a GPU.

    Args:
        seconds: of sleep for each question.
        most: questions of a step.
    """

    def __init__(self, seconds: float, most: int = 1) -> None:
        self.seconds, self.most = seconds, most
        self.in_step = 0
        """questions that the newest step answered"""
        self._line: deque[tuple[Job, Row]] = deque()

    @property
    def busy(self) -> bool:
        """Whether a question waits for its answer."""
        return bool(self._line)

    def add(self, sample: Sample) -> Job:
        """Puts all questions of a sample at the end of the line."""
        job = Job(sample, tuple(Row(Picture(), [], 1, at) for at in range(len(sample.questions))))
        self._line += [(job, row) for row in job.rows]
        return job

    def step(self) -> list[Job]:
        """Answers the first in the line, after a sleep."""
        some = [self._line.popleft() for _ in range(min(self.most, len(self._line)))]
        self.in_step = len(some)
        sleep_exactly(self.most * self.seconds)
        for _, row in some:
            row.answer = Answer("There is no such object.", (), (), False, False)
        return [job for job in dict.fromkeys(job for job, _ in some) if job.done]

    def withdraw(self, job: Job) -> None:
        """Forgets a sample."""
        self._line = deque((own, row) for own, row in self._line if own is not job)

    def abandon(self) -> None:
        """Forgets all that waits."""
        self._line.clear()


def sleep_exactly(seconds: float) -> None:
    """Sleeps, but for the last moments: a system wakes a sleeper later than it was told to."""
    end = time.perf_counter() + seconds
    time.sleep(max(0.0, seconds - WAKING_SECONDS))
    while time.perf_counter() < end:
        time.sleep(0)  # others may have the processor, if they want it


class Clocked:
    """A model, and how long its thread has been with it."""

    def __init__(self, engine: Asking) -> None:
        self._engine = engine
        self._seconds = self._cpu = 0.0
        self._questions = 0
        self._first = self._last = 0.0

    @property
    def busy(self) -> bool:
        """As the model's."""
        return self._engine.busy

    @property
    def in_step(self) -> int:
        """As the model's."""
        return self._engine.in_step

    def add(self, sample: Sample) -> Job:
        """As the model's."""
        self._questions += len(sample.questions)
        self._first = self._first or time.time()
        return self._clock(lambda: self._engine.add(sample))

    def step(self) -> list[Job]:
        """As the model's."""
        return self._clock(self._engine.step)

    def withdraw(self, job: Job) -> None:
        """As the model's."""
        self._engine.withdraw(job)

    def abandon(self) -> None:
        """As the model's."""
        self._engine.abandon()

    def notes(self, ready: float, cpu: float) -> ReplicaNotes:
        """What is known by now.

        Args:
            ready: when the model could be asked, in seconds since 1970.
            cpu: processor seconds of the whole process since then.
        """
        times = (self._first, self._last, self._seconds, self._cpu)
        return ReplicaNotes(ready, self._questions, *times, cpu)

    def _clock(self, work: Callable[[], T]) -> T:
        start, cpu = time.perf_counter(), time.thread_time()
        try:
            return work()
        finally:
            self._seconds += time.perf_counter() - start
            self._cpu += time.thread_time() - cpu
            self._last = time.time()
