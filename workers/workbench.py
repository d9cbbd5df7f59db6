"""What a replica has at hand for every shard it labels."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from workers.earlier import EarlierRows
from workers.labels.commits import Ledger
from workers.labels.rows import Provenance
from workers.meter import Meter
from workers.model_thread import ModelThread
from workers.records.instructions import Instruction
from workers.records.pictures import PictureLimits
from workers.records.record import FieldMap
from workers.storage.objects import Store

T = TypeVar("T")


def _to_nobody(shard_id: str, records: int) -> None:
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
    questions: tuple[Instruction, ...] = ()
    """asked of images that come without any"""
    fields: FieldMap = field(default_factory=FieldMap)
    limits: PictureLimits = field(default_factory=PictureLimits)
    roots: tuple[str, ...] = ()
    """where images may lie besides the folder of the file that names them"""
    tell: Callable[[str, int], None] = _to_nobody
    """hears, after each record, of which shard it was and how many of that one are done"""
    meter: Meter = field(default_factory=Meter)
    """hears what the time goes to, and what comes out"""

    async def in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Runs blocking work beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work, *arguments)
