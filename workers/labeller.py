"""The whole way of one shard, without Ray: this screen is the architecture.

    shard -> records -> pictures -> answers -> rows -> part -> commit

Reading, fetching, decoding, encoding and committing run in threads; the model runs in its own,
which all shards of a replica share. What is wrong with a record ends as rows.
Everything else passes through to `workers.replica`.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pixellm.engine.rows import Sample
from pixellm.errors import ImageError, InstructionError
from pixellm.images import PreparedImage, prepare_image
from workers.asking import Reply, Unanswered
from workers.errors import RecordRejected
from workers.labels.commits import Commit, writing_output
from workers.labels.rows import Attempt, answer_row, carry_over, failed_rows, rejected_rows
from workers.labels.schema import LabelRow
from workers.labels.table import PartIdentity, write_part
from workers.logs import REPLICA
from workers.meter import Meter, Stage
from workers.records.instructions import Instruction
from workers.records.pictures import PictureFacts, decode_picture, identify_undecoded
from workers.records.reading import fetch_image, read_records
from workers.records.record import ImageRef, Record
from workers.records.rejections import Reason, Rejection
from workers.shards.plan import Shard
from workers.summaries import ShardSummary
from workers.wording import counted
from workers.workbench import Workbench

RECORDS_AT_ONCE = 16
"""Read one behind the other in a thread."""
BYTES_AT_ONCE = 2**20
"""Of images that come with their records: these wait for their turn in memory."""

_log = logging.getLogger(REPLICA)


async def label_shard(shard: Shard, bench: Workbench, number: int = 1) -> ShardSummary:
    """Labels one shard and commits it; others may be labelling the same shard meanwhile.

    Args:
        shard: from the plan.
        bench: of this replica.
        number: of the attempt, from 1.

    Raises:
        StorageError: a store failed; nothing has been committed.
        OutputUnwritable: the output takes nothing; waiting won't help.
        ReplicaBroken: the model can't answer any more.
    """
    attempt = Attempt(bench.provenance, shard.shard_id, number, datetime.now(UTC))
    labelled = await _label_records(shard, bench, attempt)
    rows = [row for each in labelled for row in each.rows]
    commit = await bench.in_thread(_commit, rows, shard, bench)
    ids = {"run": commit.run_id, "shard": shard.shard_id}
    rows_of, records = counted(commit.rows, "row"), counted(len(labelled), "record")
    _log.info("committed: %s of %s", rows_of, records, extra=ids)
    return ShardSummary(
        run_id=commit.run_id,
        shard_id=shard.shard_id,
        rows=commit.rows,
        counts=commit.counts,
        errors=commit.errors,
        targets=commit.targets,
        records=len(labelled),
        reused=sum(each.reused for each in labelled),
        at_once=bench.model.at_once,
    )


@dataclass(frozen=True, slots=True)
class _Labelled:
    """One record's rows."""

    rows: Sequence[LabelRow]
    reused: int = 0
    """of the rows, carried over from an earlier run"""


async def _label_records(shard: Shard, bench: Workbench, attempt: Attempt) -> list[_Labelled]:
    """All records of a shard, as many at once as pictures may be alive."""
    tasks: list[asyncio.Task[_Labelled]] = []
    first: Exception | None = None
    done = due = 0

    def note(task: asyncio.Task[_Labelled]) -> None:
        nonlocal done
        done += 1
        bench.pictures.release()
        bench.tell((bench.ledger.run_id, shard.shard_id), done)
        if not task.cancelled() and task.exception() is None:
            _tell_of(task.result().rows, bench.meter)

    try:
        async with asyncio.TaskGroup() as group:
            async for record in _read(shard, bench):
                await bench.pictures.acquire()
                task = group.create_task(_label_record(record, bench, attempt))
                task.add_done_callback(note)
                tasks.append(task)
                due += max(1, len(record.instructions))
    except ExceptionGroup as errors:
        first = errors.exceptions[0]  # the others were on their way and are cancelled
    if first is not None:
        raise first  # out here it keeps its own cause, and a traceback of one screen
    labelled = [task.result() for task in tasks]
    assert sum(len(each.rows) for each in labelled) == due, "a row for each record and instruction"
    return labelled


async def _read(shard: Shard, bench: Workbench) -> AsyncIterator[Record]:
    records = read_records(
        shard, bench.store, defaults=bench.questions, fields=bench.fields, roots=bench.roots
    )
    while some := await bench.in_thread(_next, records, bench.meter):
        while some:
            yield some.popleft()


def _tell_of(rows: Sequence[LabelRow], meter: Meter) -> None:
    meter.labelled(rows)
    for row in rows:
        if row.error_code:  # no message of it, which may quote what was asked
            ids = {"run": row.run_id, "shard": row.shard_id, "record": row.row_index}
            _log.info("%s: %s", row.status, row.error_code, extra=ids)


async def _label_record(record: Record, bench: Workbench, attempt: Attempt) -> _Labelled:
    if record.rejection is not None or record.image is None:
        assert record.rejection is not None, "a record without an image has a rejection"
        return _Labelled(rejected_rows(record, record.rejection, attempt))

    opened = await bench.in_thread(_open, record, record.image, bench, attempt)
    if isinstance(opened, _Labelled):
        return opened
    record, settled = opened.record, opened.settled  # lets the bytes of the file go
    started = time.monotonic()
    texts = tuple(each.text for each in record.instructions)
    replies = await bench.model.ask(Sample(opened.image, texts))
    latency_ms = 1000 * (time.monotonic() - started)
    new = await bench.in_thread(
        _make_rows, record, opened.facts, replies, attempt, latency_ms, bench.meter
    )
    return replace(settled, rows=[*settled.rows, *new])


@dataclass(frozen=True, slots=True)
class _Opened:
    """A record whose picture is ready for the model."""

    record: Record
    """with what is left to ask, and without the bytes of its file"""
    settled: _Labelled
    """of what need not be asked"""
    facts: PictureFacts
    image: PreparedImage


def _open(
    record: Record, image: ImageRef, bench: Workbench, attempt: Attempt
) -> _Opened | _Labelled:
    """All that a record needs before the model."""
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
        return _Labelled(rejected_rows(bare, why, attempt, known))
    del picture, data  # what follows may wait for a store
    settled, asked = _settle(bare, facts, bench, attempt)
    return _Opened(replace(bare, instructions=asked), settled, facts, prepared)


def _refuse(error: RecordRejected | ImageError) -> Rejection:
    if isinstance(error, RecordRejected):
        return Rejection.of(error)
    return Rejection(Reason.IMAGE_BROKEN, f"{error}")


def _settle(
    record: Record, facts: PictureFacts, bench: Workbench, attempt: Attempt
) -> tuple[_Labelled, tuple[Instruction, ...]]:
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
    return _Labelled([*known, *refused], reused=len(known)), tuple(asked)


def _why_no_room(instruction: Instruction, bench: Workbench) -> Rejection | None:
    """Found out here, since one question that is too long fails the whole batch it is in."""
    try:
        bench.room(instruction.text)
    except InstructionError as error:
        return Rejection(Reason.INSTRUCTION_INVALID, f"{error}")
    return None


def _make_rows(
    record: Record,
    facts: PictureFacts,
    replies: Sequence[Reply],
    attempt: Attempt,
    latency_ms: float,
    meter: Meter,
) -> list[LabelRow]:
    rows: list[LabelRow] = []
    with meter.timing(Stage.ENCODE):
        for instruction, reply in zip(record.instructions, replies, strict=True):
            single = replace(record, instructions=(instruction,))
            if isinstance(reply, Unanswered):
                rows += failed_rows(single, reply.message, attempt, facts)
            else:
                rows.append(answer_row(single, facts, reply, attempt, latency_ms))
    return rows


def _commit(rows: Sequence[LabelRow], shard: Shard, bench: Workbench) -> Commit:
    """Writes the part and makes it count; if another attempt was first, that one's counts."""
    run = bench.provenance
    identity = PartIdentity(run.run_id, shard.shard_id, run.label_fingerprint)
    with bench.meter.timing(Stage.ENCODE):
        part = write_part(rows, identity)
    with writing_output(), bench.meter.timing(Stage.COMMIT):
        commit, won = bench.ledger.commit(
            shard.shard_id,
            part,
            fingerprint=run.label_fingerprint,
            source=shard.source,
            source_etag=shard.etag,
        )
    bench.meter.committed(won)
    return commit


def _next(records: Iterator[Record], meter: Meter) -> deque[Record]:
    """Some records, since each way to a thread and back costs as much as to read one; or none."""
    some, size = deque[Record](), 0
    with meter.timing(Stage.READ):
        for record in records:
            some.append(record)
            size += len(record.image.data or b"") if record.image else 0
            if len(some) >= RECORDS_AT_ONCE or size >= BYTES_AT_ONCE:
                break
    return some
