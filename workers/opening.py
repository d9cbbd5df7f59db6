"""A record -> its picture as the model reads it, and which of its questions are left to ask.

Each way to a thread and back costs as much as opening a small picture. So a thread opens some
records in a row, for as long as that takes no time. Behind a large picture, or one that is waited
for, each has a way of its own.
"""

import asyncio
import time
from asyncio import Future
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pixellm.errors import ImageError, InstructionError
from pixellm.images import PreparedImage, prepare_image
from workers.errors import RecordRejected
from workers.labels.rows import Attempt, carry_over, rejected_rows
from workers.labels.schema import LabelRow
from workers.meter import Stage
from workers.records.instructions import Instruction
from workers.records.pictures import PictureFacts, decode_picture, identify_undecoded
from workers.records.reading import fetch_image
from workers.records.record import ImageRef, Record
from workers.records.rejections import Reason, Rejection
from workers.workbench import Workbench

IN_A_ROW_SECONDS = 0.005
"""After it, those who still wait in the row go on in threads of their own."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One record's rows."""

    rows: Sequence[LabelRow]
    reused: int = 0
    """of the rows, carried over from an earlier run"""


@dataclass(frozen=True, slots=True)
class Opened:
    """A record whose picture is ready for the model."""

    record: Record
    """with what is left to ask, and without the bytes of its file"""
    settled: Labelled
    """of what need not be asked"""
    facts: PictureFacts
    image: PreparedImage


Opening = Future[Opened | Labelled]
"""Of a record that will be opened, or has its rows already."""


async def open_records(
    waiting: deque[tuple[Record, Opening]], bench: Workbench, attempt: Attempt
) -> None:
    """Opens records and tells their futures; what goes wrong with the line itself, too.

    Args:
        waiting: emptied.
        bench: of this replica.
        attempt: that labels them.
    """
    for opening, outcome in await bench.in_thread(_open_some, waiting, bench, attempt):
        if opening.done():  # nobody waits for it any more
            continue
        if isinstance(outcome, Exception):
            opening.set_exception(outcome)
        else:
            opening.set_result(outcome)
    # the others go on side by side
    alone = [deque([waiting.popleft()]) for _ in range(len(waiting))]
    await asyncio.gather(*(open_records(each, bench, attempt) for each in alone))


def _open_some(
    waiting: deque[tuple[Record, Opening]], bench: Workbench, attempt: Attempt
) -> list[tuple[Opening, Opened | Labelled | Exception]]:
    opened = list[tuple[Opening, Opened | Labelled | Exception]]()
    until = time.monotonic() + IN_A_ROW_SECONDS
    while waiting and (not opened or time.monotonic() < until):
        record, opening = waiting.popleft()
        try:
            opened.append((opening, _open(record, bench, attempt)))
        except Exception as error:  # a store failed, say: its record tells the shard
            opened.append((opening, error))
    return opened


def _open(record: Record, bench: Workbench, attempt: Attempt) -> Opened | Labelled:
    """All that a record needs before the model."""
    if record.rejection is not None or (image := record.image) is None:
        assert record.rejection is not None, "a record without an image has a rejection"
        return Labelled(rejected_rows(record, record.rejection, attempt))
    return _open_picture(record, image, bench, attempt)


def _open_picture(
    record: Record, image: ImageRef, bench: Workbench, attempt: Attempt
) -> Opened | Labelled:
    data = None
    bare = replace(record, image=replace(image, data=None))
    try:
        with bench.meter.timing(Stage.READ):
            data = fetch_image(image, bench.store, bench.limits.max_bytes)
        with bench.meter.timing(Stage.DECODE):
            picture = decode_picture(data, bench.limits)
            facts, prepared = picture.facts(), prepare_image(picture.rgb, bench.image_side)
    except (RecordRejected, ImageError) as error:
        why = _refuse(error)
        known = None if data is None else identify_undecoded(data)
        return Labelled(rejected_rows(bare, why, attempt, known))
    del picture, data  # what follows may wait for a store
    settled, asked = _settle(bare, facts, bench, attempt)
    return Opened(replace(bare, instructions=asked), settled, facts, prepared)


def _refuse(error: RecordRejected | ImageError) -> Rejection:
    if isinstance(error, RecordRejected):
        return Rejection.of(error)
    return Rejection(Reason.IMAGE_BROKEN, f"{error}")


def _settle(
    record: Record, facts: PictureFacts, bench: Workbench, attempt: Attempt
) -> tuple[Labelled, tuple[Instruction, ...]]:
    """The rows that need no model, known or refused ones, and the instructions left to ask."""
    known: list[LabelRow] = []
    refused: list[LabelRow] = []
    asked: list[Instruction] = []
    for each in record.instructions:
        if (row := bench.earlier.find(facts.sha256, each)) is not None:
            known.append(carry_over(row, record, each, attempt))
        elif (why := _why_no_room(each, bench)) is not None:
            refused += rejected_rows(replace(record, instructions=(each,)), why, attempt, facts)
        else:
            asked.append(each)
    return Labelled([*known, *refused], reused=len(known)), tuple(asked)


def _why_no_room(instruction: Instruction, bench: Workbench) -> Rejection | None:
    """Found out here, since one question that is too long fails the whole batch it is in."""
    try:
        bench.room(instruction.text)
    except InstructionError as error:
        return Rejection(Reason.INSTRUCTION_INVALID, f"{error}")
    return None
