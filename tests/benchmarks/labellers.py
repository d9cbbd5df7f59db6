"""Replicas that take notes or do less, for the jobs of `tests.benchmarks.watched`."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tests.benchmarks.clocked import MANY_AT_ONCE, QUESTION_SECONDS, Clocked, Sleeping
from tests.benchmarks.notes import NOTES, write_notes
from workers.asking import Asking
from workers.errands import Assignment, Errand
from workers.labels.commits import Commit, marker_uri, now, part_name
from workers.labels.sums import Sums
from workers.model_thread import ModelThread
from workers.replica import ShardLabeller
from workers.summaries import ShardSummary


class Watched(ShardLabeller):
    """A replica as any other, which takes notes."""

    def setup(self, assignments: Sequence[Assignment]) -> None:
        """Loads the model, and puts a clock around it."""
        super().setup(assignments)
        ((run_id, bench),) = self._benches.items()
        self._clock = Clocked(self.choose(bench.model._engine))
        self._benches = {run_id: replace(bench, model=ModelThread(self._clock))}
        self._notes = Path(assignments[0].settings.output) / NOTES / f"{os.getpid()}.json"
        self._ready, self._cpu = time.time(), time.process_time()

    def choose(self, engine: Asking) -> Asking:
        """The model that is asked."""
        return engine

    async def process(self, errand: Errand) -> ShardSummary:
        """Labels a shard, and notes how it has been so far."""
        summary = await super().process(errand)
        notes = self._clock.notes(self._ready, time.process_time() - self._cpu)
        write_notes(self._notes, asdict(notes))
        return summary


class Sleeper(Watched):
    """A replica that does everything as ever, but for its model, which sleeps."""

    at_once = 1
    """questions over which it sleeps together"""

    def choose(self, engine: Asking) -> Asking:
        """The model that is asked."""
        return Sleeping(QUESTION_SECONDS, self.at_once)


class DeepSleeper(Sleeper):
    """Likewise, with a model that takes many questions at once."""

    at_once = MANY_AT_ONCE


class Prompt(ShardLabeller):
    """A replica without a model, which is done with a shard at once.

    It writes a commit marker, so that the driver finds everything committed, but no part; and it
    doesn't wait for the disk.
    """

    def setup(self, assignments: Sequence[Assignment]) -> None:
        """Loads nothing."""
        (self._assignment,) = assignments

    async def process(self, errand: Errand) -> ShardSummary:
        """Claims that every record has an answer without masks."""
        run_id, shard = errand.run_id, errand.shard
        sums = Sums(rows=shard.count, counts={"empty": shard.count})
        commit = Commit(
            run_id=run_id,
            shard_id=shard.shard_id,
            part=part_name(run_id, shard.shard_id),
            sha256="",
            bytes=0,
            fingerprint=self._assignment.identity.label_fingerprint,
            source=shard.source,
            source_etag=shard.etag,
            created_at=now(),
            **asdict(sums),
        )
        marker = Path(marker_uri(self._assignment.settings.output, run_id, shard.shard_id))
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_bytes(commit.to_json())
        return ShardSummary(*errand.key, records=shard.count, **asdict(sums))


LABELLERS: Mapping[str, type[ShardLabeller]] = {
    "watched": Watched,
    **{f"sleeping-{each.at_once}": each for each in (Sleeper, DeepSleeper)},
    "prompt": Prompt,
}
"""By the names that `tests.benchmarks.watched` knows them by."""
