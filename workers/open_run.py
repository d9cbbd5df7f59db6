"""A run that is under way: how its output writes, what replicas must know, what came back."""

import time
from functools import partial

from workers.earlier import EarlierIndex, index_earlier
from workers.errands import Assignment
from workers.errors import CommitError, LineError, OutputUnwritable, StorageError
from workers.labels.commits import Guarantee, writing_output
from workers.labels.manifests import stale_commits
from workers.packed import Checklist, PackedSet
from workers.progress import Progress
from workers.runs import Run
from workers.storage.stores import Anywhere
from workers.storage.uris import shown
from workers.summaries import ShardSummary, Tally
from workers.wording import Say

ITS_OWN = (CommitError, OutputUnwritable, StorageError)
"""What is wrong with the output of one run says nothing about those of others."""
AT_LEAST_ONCE = (
    "has no conditional writes, so every shard is committed at least once, not exactly once: no "
    "row is lost or doubled, but where two workers end the same shard in the same moment, its "
    "marker may hold the sums of the one and its part the rows of the other. Do not start the same "
    "command twice at a time"
)


class OpenRun:
    """A run that is under way, and what has come back of it."""

    def __init__(self, run: Run) -> None:
        self.run, self.run_id, self.tally = run, run.ledger.run_id, Tally()
        self.todo = run.todo
        self.started = time.monotonic()
        self.earlier: EarlierIndex | None = None
        self.trouble: LineError | None = None
        """what is wrong with its output; then nothing more is begun of it"""
        self._left = Checklist(shard.shard_id for shard in self.todo)

    def begin(self, progress: Progress) -> bool:
        """Looks at its output, before Ray is started for nothing; whether it can be worked with."""
        try:
            self.probe(partial(progress.say, run=self.run_id))
            self.earlier = self._index_earlier()
        except ITS_OWN as error:
            self.trouble = error
        return self.trouble is None

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it."""
        return not self._left or self.trouble is not None

    @property
    def done(self) -> PackedSet:
        """Shards of which it was told that they are committed, in this start."""
        failed = {shard_id for _, shard_id in self.tally.failures}
        return PackedSet(each for each in self._left.crossed_off if each not in failed)

    def take(self, summary: ShardSummary) -> bool:
        """Counts a shard in, once; whether it was the first time."""
        first = self._left.cross_off(summary.shard_id)
        if first:
            self.tally.add(summary)
        return first

    def probe(self, say: Say) -> None:
        """Finds out how the output writes, before Ray is started for nothing."""
        ledger = self.run.ledger
        with writing_output():
            guarantee = ledger.probe()
        if guarantee is Guarantee.AT_LEAST_ONCE:
            say(f"{shown(ledger.output)} {AT_LEAST_ONCE}")

    def assign(self) -> Assignment:
        """What replicas must know; stores the lists that they will read."""
        run, ledger = self.run, self.run.ledger
        with writing_output():
            run.lists.store_in(Anywhere())
        earlier = self.earlier or self._index_earlier()
        return Assignment(run.settings, run.identity, self.run_id, ledger.guarantee, earlier)

    def _index_earlier(self) -> EarlierIndex:
        run, store, output = self.run, self.run.ledger.store, self.run.ledger.output
        commits = stale_commits(
            store,
            output,
            fingerprint=run.identity.label_fingerprint,
            sources={shard.source for shard in self.todo},
            run_id=self.run_id,
            plan=run.shard_ids,
        )
        return index_earlier(store, output, list(commits))
