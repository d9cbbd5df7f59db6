"""What a replica has at hand for every shard it labels."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from pixellm.engine.engine import Engine
from workers.earlier import EarlierRows
from workers.errands import Assignment
from workers.labels.commits import Ledger
from workers.labels.rows import Provenance
from workers.meter import Meter
from workers.model_thread import ModelThread
from workers.records.instructions import Instruction
from workers.records.pictures import PictureLimits
from workers.records.record import FieldMap
from workers.storage.objects import Store
from workers.storage.stores import Anywhere
from workers.summaries import ShardKey

T = TypeVar("T")

MOST_IN_A_ROW = 8
"""Records that a thread opens one behind the other."""


def _to_nobody(key: ShardKey, records: int) -> None:
    """For whoever doesn't want to know."""


@dataclass(frozen=True, slots=True)
class Workbench:
    """The model, the stores, the threads and the rules; the same for all shards of a replica."""

    model: ModelThread
    image_side: int
    """of the model, in pixels"""
    room: Callable[[str], int]
    """how many tokens the answer to a text may have; an InstructionError when there are none left.
    Only reads the text, so it may be asked from any thread while the model is busy."""
    ledger: Ledger
    provenance: Provenance
    earlier: EarlierRows
    store: Store
    """for all that is read: the input, the plan's listings, the images"""
    threads: Executor
    pictures: asyncio.Semaphore
    """one for each picture that may be alive"""
    in_a_row: int = 1
    """records that a thread opens one behind the other, where that is quick"""
    questions: tuple[Instruction, ...] = ()
    """asked of images that come without any"""
    fields: FieldMap = field(default_factory=FieldMap)
    limits: PictureLimits = field(default_factory=PictureLimits)
    roots: tuple[str, ...] = ()
    """where images may lie besides the folder of the file that names them"""
    tell: Callable[[ShardKey, int], None] = _to_nobody
    """hears, after each record, of which shard it was and how many of that one are done"""
    meter: Meter = field(default_factory=Meter)
    """hears what the time goes to, and what comes out"""

    async def in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Runs blocking work beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work, *arguments)


def choose_row(pictures: int, shards: int) -> int:
    """Records that are opened in a row: one that waits to be whole holds places for pictures.

    Those of all shards together are a quarter of all places at most, so that the others go on.
    """
    return min(MOST_IN_A_ROW, max(1, pictures // (4 * shards)))


def lay_out_benches(
    assignments: Sequence[Assignment],
    engine: Engine,
    tell: Callable[[ShardKey, int], None] = _to_nobody,
    meter: Meter | None = None,
) -> dict[str, Workbench]:
    """Puts everything within reach, for each run.

    Args:
        assignments: of the runs; settings of the model, of decoding and of reading are those of
            the first.
        engine: with the model of all of them.
        tell: see `Workbench.tell`.
        meter: hears what the time goes to; silent without one.
    """
    meter = meter or Meter()
    settings = assignments[0].settings
    model, store = ModelThread(engine, meter), Anywhere()
    threads = ThreadPoolExecutor(settings.reading.threads, thread_name_prefix="reader")
    pictures = asyncio.Semaphore(settings.pictures_at_once)
    in_a_row = choose_row(settings.pictures_at_once, settings.replica.shards_in_flight)

    def lay_out(each: Assignment) -> Workbench:
        output = each.settings.output
        return Workbench(
            model=model,
            image_side=engine.model.config.image_side,
            room=lambda text: engine.room(engine.prompt_ids(text)),
            ledger=Ledger(store, output, each.run_id, each.guarantee),
            provenance=each.identity.provenance(each.run_id),
            earlier=EarlierRows(each.earlier, store, output),
            store=store,
            threads=threads,
            pictures=pictures,
            in_a_row=in_a_row,
            questions=each.settings.questions,
            fields=each.settings.field_map,
            limits=each.settings.picture_limits,
            roots=(each.settings.input, *each.settings.reading.roots),
            tell=tell,
            meter=meter,
        )

    return {each.run_id: lay_out(each) for each in assignments}
