"""The batches of one worker, one after the other, from any place on.

A global batch is what the optimiser takes one step with: `accumulate` slices, in each of which
every worker has `per_worker` rows.

    mix -> pools -> global batches -> slices -> rows of this worker -> batch

Every worker draws the same pools and takes its own rows of them, so the global batches are the same
whatever their number is. Each reads the whole label table for it, but only its own pictures.
"""

import json
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from pixellm.training import TrainingBatch
from workers.errors import SettingsError
from workers.training.batches import BatchMaker, MadeBatch
from workers.training.mixing import Mix, MixPosition
from workers.training.pools import POOL_BATCHES, Pool, group_by_length
from workers.training.reading import Position

THREADS = 4
"""Batches that are made at once: a photo takes some 10 ms to decode, and longer to come."""
AHEAD = 2 * THREADS
"""Batches that are ready or being made; a row is some 3 MB at the released size."""


@dataclass(frozen=True, slots=True)
class FeedPosition:
    """How far a feed is; the same on every worker, and for any number of them."""

    data: str
    """`Mix.digest`: elsewhere the rest means nothing"""
    batch_rows: int
    """examples of a global batch"""
    pool_batches: int
    """global batches of a pool"""
    pool: MixPosition
    """where the pool begins that is being taken"""
    runs: tuple[tuple[str, ...], ...]
    """which runs each data set is read from: give them to `ExampleStream` to go on, since what
    counts of a table may be another run by then"""
    batches: int = 0
    """global batches of the pool that are taken whole"""
    rows: int = 0
    """examples of the next global batch that are taken"""

    def to_json(self) -> str:
        """One line; the same values give the same text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "FeedPosition":
        """Reads what `to_json` wrote.

        Raises:
            SettingsError: it is something else.
        """
        try:
            values = json.loads(text)
            pool = values.pop("pool")
            streams = tuple(Position(**each) for each in pool["streams"])
            runs = tuple(map(tuple, values.pop("runs")))
            return cls(pool=MixPosition(pool["taken"], streams), runs=runs, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SettingsError(
                f"{text[:80]!r} is no position in training data ({error}); the state is"
                " damaged, or of another version of this program"
            ) from error


@dataclass(frozen=True, slots=True)
class _Slice:
    """Rows of one worker that are to become a batch."""

    pool: Pool
    rows: range
    when: int
    """a number that no other global batch has: a picture that comes by in another one is seen
    otherwise"""
    position: FeedPosition
    """behind it"""
    is_first: bool
    """of its pool"""


class Feed:
    """The batches of one worker. Each iteration begins at the position that it was made with.

        for batch, position in Feed(mix, maker, per_worker=2, rank=0, world=1, accumulate=4):
            ...

    Batches are made ahead, in threads; their order and content do not depend on that. Leaving the
    loop, or closing the iterator, ends the threads.

    Args:
        mix: what is learned from.
        maker: of the model.
        per_worker: rows of a batch.
        rank: this worker's number, from 0.
        world: how many workers there are.
        accumulate: batches of each worker that make up a global batch.
        position: where to go on; None for the beginning.
        pool_batches: global batches that are sorted by length together.
        threads: batches that are made at once.

    Raises:
        SettingsError: the position is of other data, or of global batches of another size.
    """

    def __init__(
        self,
        mix: Mix,
        maker: BatchMaker,
        per_worker: int,
        rank: int,
        world: int,
        accumulate: int,
        *,
        position: FeedPosition | None = None,
        pool_batches: int = POOL_BATCHES,
        threads: int = THREADS,
    ) -> None:
        assert min(per_worker, accumulate, pool_batches) > 0, "there is a batch to make"
        assert 0 <= rank < world, f"worker {rank} of {world}"
        self._mix, self._maker, self._threads = mix, maker, threads
        self._per_worker, self._rank, self._world = per_worker, rank, world
        runs = tuple(stream.runs for stream in mix.streams)
        rows = per_worker * world * accumulate
        self._start = FeedPosition(mix.digest, rows, pool_batches, mix.start, runs)
        self._position = self._start if position is None else position
        self._check_position()
        self.counts = Counter[str]()
        """Examples that were passed over up to the last batch, by reason: rows, which all workers
        count alike, and this worker's pictures. Those of a later epoch are counted again."""

    def __iter__(self) -> Iterator[tuple[TrainingBatch, FeedPosition]]:
        """Batches without end, each with the position behind it.

        Raises:
            SettingsError: there is nothing to learn from, or pictures are gone.
            CommitError: a part of a label table is damaged or gone.
            StorageError: a store failed.
        """
        slices = self._slices()
        with ThreadPoolExecutor(1) as planner, ThreadPoolExecutor(self._threads) as makers:

            def begin() -> tuple[_Slice, Future[MadeBatch]]:
                each = next(slices)
                return each, makers.submit(self._maker.make, each.pool.rows, each.rows, each.when)

            begun = deque(planner.submit(begin) for _ in range(AHEAD))
            try:
                while True:
                    each, future = begun.popleft().result()
                    made = future.result()
                    begun.append(planner.submit(begin))
                    self.counts += made.skipped + (
                        each.pool.skipped if each.is_first else Counter()
                    )
                    yield made.batch, each.position
            finally:
                planner.shutdown(cancel_futures=True)
                makers.shutdown(cancel_futures=True)

    def _slices(self) -> Iterator[_Slice]:
        """This worker's rows, slice by slice."""
        at, step = self._position, self._per_worker * self._world
        pools = group_by_length(
            self._mix,
            at.pool,
            self._maker.encode,
            batch_rows=at.batch_rows,
            pool_batches=at.pool_batches,
        )
        for pool in pools:
            while at.pool == pool.start:
                batch = pool.batches[at.batches].start
                first = batch + at.rows + self._rank * self._per_worker
                when, after = pool.start.taken + batch, _advance(at, step, pool)
                is_first = at.batches == at.rows == 0
                yield _Slice(pool, range(first, first + self._per_worker), when, after, is_first)
                at = after

    def _check_position(self) -> None:
        ours, given = self._start, self._position
        if given.data != ours.data:
            raise SettingsError(
                "the state in --output was learning from other rows: it read the runs"
                f" {_list(given.runs)}, and here they are {_list(ours.runs)}. Give the same tables,"
                " or another --output"
            )
        if given.pool_batches != ours.pool_batches or given.batch_rows != ours.batch_rows:
            raise SettingsError(
                f"the steps of the state in --output take {given.batch_rows} examples, from pools"
                f" of {given.pool_batches} steps; here they would take {ours.batch_rows}, from"
                f" pools of {ours.pool_batches}. Choose --batch, --accumulate and --num-workers so"
                f" that their product is {given.batch_rows}"
            )
        if given.rows % (self._per_worker * self._world):
            raise SettingsError(
                f"the state in --output was made after {given.rows} of the {given.batch_rows}"
                f" examples of a step, which {self._world} workers can't go on from with"
                f" {self._per_worker} rows each; go on with --num-workers as before"
            )


def _list(runs: tuple[tuple[str, ...], ...]) -> str:
    return ", ".join(run for of_stream in runs for run in of_stream)


def _advance(position: FeedPosition, rows: int, pool: Pool) -> FeedPosition:
    """The position when some more rows of the pool are taken."""
    if position.rows + rows < position.batch_rows:
        return replace(position, rows=position.rows + rows)
    if position.batches + 1 < len(pool.batches):
        return replace(position, rows=0, batches=position.batches + 1)
    return replace(position, rows=0, batches=0, pool=pool.stop)
