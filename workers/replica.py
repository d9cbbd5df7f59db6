"""One replica: a worker process that holds one model and labels the shards it is given.

Ray Data makes its actor (`workers.pool`), calls that with the number of a shard, takes the summary,
and replaces it when it dies. What goes wrong inside, and what then happens:

    RecordRejected        a record can't be labelled   -> a row, in `workers.labeller`
    Unanswered            the model fails on one       -> a row of status `failed`
    StorageUnavailable    a store can't just now       -> SHARD_ATTEMPTS here, then the shard failed
    other StorageError    one file is gone or changed  -> the shard failed, the run goes on
    AccessDenied, OutputUnwritable, CommitError, ...   -> the run ends: all shards would fail so
    CheckpointError, ...  the model can't be loaded    -> the run ends with the message
    killed while it loads the model                    -> Ray starts it again; after
                                                          MAX_SETUP_DEATHS, the run ends
    ReplicaBroken         the device or the model      -> this process says why, ends itself, and
    killed, out of memory, node lost                   -> Ray starts another and its shards again;
                                                          after MAX_DEATHS, a shard has failed
    anything else         a bug                        -> the run ends with its traceback

Ray itself repeats nothing that raised: retries in two layers multiply.
"""

import asyncio
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from types import MappingProxyType

import torch

from pixellm.engine.engine import Engine
from pixellm.errors import PixelLMError
from workers.engines import load_engine
from workers.errands import Assignment, Errand
from workers.errors import (
    AccessDenied,
    LineError,
    ReplicaBroken,
    StorageError,
    StorageUnavailable,
)
from workers.labeller import label_shard
from workers.logbook import MAX_SETUP_DEATHS, Begun, Logbook, Teller
from workers.logs import log_as_json, log_error
from workers.meter import Meter
from workers.model_files import ModelIdentity
from workers.settings import LabelSettings
from workers.shards.plan import Shard
from workers.storage.uris import shown
from workers.summaries import ShardKey, ShardSummary
from workers.workbench import Workbench, lay_out_benches

WAITS = (15.0, 60.0)
"""Seconds before the second and the third attempt at a shard. Each attempt itself repeats requests
for some seconds (`workers.storage.s3.ATTEMPTS`), so one and a half to three minutes pass."""
SHARD_ATTEMPTS = 1 + len(WAITS)
MAX_DEATHS = 3
"""Of workers that have a shard at hand. A shard that kills every worker, by the memory it takes
for example, must not go round for ever. Its neighbours in the same worker are charged with those
deaths too; where that leaves one undone, the next start does it."""
LAST_WORDS_SECONDS = 5.0
"""What a broken replica takes to say why; it ends itself also when nobody hears it."""
BROKEN_CODE = 70
"""Exit code of a replica that ends itself (EX_SOFTWARE of sysexits.h)."""


class ShardLabeller:
    """What works in an actor of Ray Data (`workers.pool`); some shards are under way in it at once.

    Args:
        assignments: of the runs whose shards it is given, with the same model.
        threads: of the model, when it runs on a CPU.
        logbook: hears of each set-up and shard that is begun, and why a replica broke.
        make_meter: makes what hears of the rest, in the process of the replica.
    """

    _benches: Mapping[str, Workbench] = MappingProxyType({})
    """by run; none before it is set up"""

    def __init__(
        self,
        assignments: Sequence[Assignment],
        threads: int,
        logbook: Logbook,
        make_meter: Callable[[], Meter] = Meter,
    ) -> None:
        torch.set_num_threads(threads)
        if assignments[0].settings.log_format == "json":
            log_as_json()
        self._meter = make_meter()
        self._logbook = logbook
        self._teller = Teller(logbook.answered)
        self._at_hand: set[ShardKey] = set()
        settings = assignments[0].settings
        # Ray may run several shards of a block at once, and several blocks
        self._turns = asyncio.Semaphore(settings.replica.shards_in_flight)
        self._why_not = ""
        deaths = logbook.setup_begins()
        if deaths > MAX_SETUP_DEATHS:  # what kills them would kill this one too
            self._why_not = describe_setup_deaths(deaths, settings)
            return
        try:
            self.setup(assignments)
        except PixelLMError as error:  # raised from here, Ray would bury it in tracebacks
            self._why_not = f"the model can't be used: {error}"
        logbook.setup_ends(loaded=not self._why_not)

    def setup(self, assignments: Sequence[Assignment]) -> None:
        """Loads the model and puts everything else within reach."""
        engine = _load_patiently(assignments[0].settings, assignments[0].identity)
        self._benches = lay_out_benches(assignments, engine, self._teller, self._meter)

    async def __call__(self, errand: Errand) -> ShardSummary:
        """Labels a shard when its turn has come."""
        async with self._turns:
            return await self.take(errand)

    async def take(self, errand: Errand) -> ShardSummary:
        """Labels a shard, unless it is done already, or has cost too many workers."""
        key = errand.key
        begun = await self._logbook.begin(key)
        if begun.closed:
            return ShardSummary(*key, not_begun=True)
        if begun.times > 1 and (done := await self.find_commit(errand)) is not None:
            return done  # whoever had it died only after that
        if begun.times > 1 + MAX_DEATHS:
            return ShardSummary(*key, error=describe_deaths(begun))
        self._at_hand.add(key)
        with self._patience(begun):
            summary = await self.process(errand)
        self._at_hand.discard(key)
        self._teller.flush()
        self._meter.flush()
        return summary

    def _patience(self, begun: Begun) -> AbstractContextManager[None]:
        """With the last try of a shard: its pictures may really be as large as it seems."""
        models = [bench.model for bench in self._benches.values()][:1]  # all have the same one
        last = begun.times > MAX_DEATHS
        return models[0].patience() if last and models else nullcontext()

    async def find_commit(self, errand: Errand) -> ShardSummary | None:
        """What became of a shard that is committed already."""
        if (bench := self._benches.get(errand.run_id)) is None:
            return None
        try:
            commit = await bench.in_thread(bench.ledger.get, errand.shard.shard_id)
        except LineError:  # then it is labelled again, and told what is wrong if that lasts
            return None
        if commit is None:
            return None
        return ShardSummary(
            run_id=errand.run_id,
            shard_id=errand.shard.shard_id,
            rows=commit.rows,
            counts=commit.counts,
            errors=commit.errors,
            targets=commit.targets,
        )

    async def process(self, errand: Errand) -> ShardSummary:
        """Labels a shard; whatever goes wrong is told in the summary, but for a broken replica."""
        if not self._benches:
            return ShardSummary(*errand.key, error=self._why_not, ends_run=True)
        try:
            return await _try_label(errand.shard, self._benches[errand.run_id])
        except ReplicaBroken as error:
            await self._say_why(f"{error}")
            os._exit(BROKEN_CODE)  # at once: what holds a broken device may hang at exit
        except LineError as error:
            return ShardSummary(*errand.key, error=f"{error}", ends_run=_concerns_all(error))
        except Exception:
            return ShardSummary(*errand.key, error=traceback.format_exc(), ends_run=True)

    async def _say_why(self, why: str) -> None:
        log_error(f"this replica is broken and will be replaced: {why}")
        with suppress(Exception):  # this process ends, whether it was heard or not
            await asyncio.wait_for(self._logbook.broke(self._at_hand, why), LAST_WORDS_SECONDS)

    def destroy(self) -> None:
        """Lets the threads go; the process ends soon after."""
        for bench in self._benches.values():  # they share both
            bench.model.close()
            bench.threads.shutdown(wait=False, cancel_futures=True)

    def __del__(self) -> None:
        self.destroy()


def describe_deaths(begun: Begun) -> str:
    """Why a shard is given up that workers died over."""
    died = f"{begun.times - 1} workers that had it died"
    if begun.last_words is None:
        return f"{died} (out of memory?); see Ray's logs"
    return f"{died}; the last that could say why: {begun.last_words}"


def describe_setup_deaths(deaths: int, settings: LabelSettings) -> str:
    """Why the run ends when replicas are killed before they can do anything."""
    return (
        f"{deaths} workers died while they loaded the model {shown(settings.model_place)} (out of "
        "memory?). Use machines with more memory or a smaller model, or let fewer replicas share a "
        "machine (--max-replicas); Ray's logs may say more"
    )


def _load_patiently(settings: LabelSettings, identity: ModelIdentity) -> Engine:
    for wait in WAITS:
        try:
            return load_engine(settings, identity)
        except StorageUnavailable:
            time.sleep(wait)
    return load_engine(settings, identity)


async def _try_label(shard: Shard, bench: Workbench) -> ShardSummary:
    for number, wait in enumerate(WAITS, start=1):
        try:
            return await label_shard(shard, bench, number)
        except StorageUnavailable:
            bench.meter.retried()
            await asyncio.sleep(wait)
    return await label_shard(shard, bench, SHARD_ATTEMPTS)


def _concerns_all(error: LineError) -> bool:
    return not isinstance(error, StorageError) or isinstance(error, AccessDenied)
