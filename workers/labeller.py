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
from dataclasses import replace
from datetime import UTC, datetime

from pixellm.answers import Answer
from pixellm.engine.rows import Sample
from workers.asking import Reply, Unanswered
from workers.labels.commits import Commit, writing_output
from workers.labels.rows import Attempt, answer_row, failed_rows
from workers.labels.schema import LabelRow
from workers.labels.table import PartIdentity, write_part
from workers.logs import REPLICA
from workers.meter import Meter, Stage
from workers.opening import Labelled, Opening, open_records
from workers.records.pictures import PictureFacts
from workers.records.reading import read_records
from workers.records.record import Record
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


async def _label_records(shard: Shard, bench: Workbench, attempt: Attempt) -> list[Labelled]:
    """All records of a shard, as many at once as pictures may be alive."""
    tasks: list[asyncio.Task[Labelled]] = []
    first: Exception | None = None
    done = due = 0

    def note(task: asyncio.Task[Labelled]) -> None:
        nonlocal done
        done += 1
        bench.pictures.release()
        bench.tell((bench.ledger.run_id, shard.shard_id), done)
        if not task.cancelled() and task.exception() is None:
            _tell_of(task.result().rows, bench.meter)

    try:
        async with asyncio.TaskGroup() as group:
            async for records in _read(shard, bench):
                waiting = deque[tuple[Record, Opening]]()
                while records:  # who is opened is held here no longer
                    await bench.pictures.acquire()
                    opening: Opening = asyncio.get_running_loop().create_future()
                    task = group.create_task(_label_record(opening, bench, attempt))
                    task.add_done_callback(note)
                    tasks.append(task)
                    due += max(1, len(records[0].instructions))
                    waiting.append((records.popleft(), opening))
                group.create_task(open_records(waiting, bench, attempt))
    except ExceptionGroup as errors:
        first = errors.exceptions[0]  # the others were on their way and are cancelled
    if first is not None:
        raise first  # out here it keeps its own cause, and a traceback of one screen
    labelled = [task.result() for task in tasks]
    assert sum(len(each.rows) for each in labelled) == due, "a row for each record and instruction"
    return labelled


async def _read(shard: Shard, bench: Workbench) -> AsyncIterator[deque[Record]]:
    """Records, as many together as are opened in a row."""
    records = read_records(
        shard, bench.store, defaults=bench.questions, fields=bench.fields, roots=bench.roots
    )
    while some := await bench.in_thread(_next, records, bench.meter):
        while some:
            yield deque(some.popleft() for _ in range(min(bench.in_a_row, len(some))))


def _tell_of(rows: Sequence[LabelRow], meter: Meter) -> None:
    meter.labelled(rows)
    for row in rows:
        if row.error_code:  # no message of it, which may quote what was asked
            ids = {"run": row.run_id, "shard": row.shard_id, "record": row.row_index}
            _log.info("%s: %s", row.status, row.error_code, extra=ids)


async def _label_record(opening: Opening, bench: Workbench, attempt: Attempt) -> Labelled:
    opened = await opening
    if isinstance(opened, Labelled):
        return opened
    record, settled = opened.record, opened.settled
    started = time.monotonic()
    texts = tuple(each.text for each in record.instructions)
    replies = await bench.model.ask(Sample(opened.image, texts))
    latency_ms = 1000 * (time.monotonic() - started)
    work = record, opened.facts, replies, attempt, latency_ms, bench.meter
    if any(isinstance(reply, Answer) and reply.targets for reply in replies):
        new = await bench.in_thread(_make_rows, *work)
    else:  # without masks, rows are made sooner than a thread is woken
        new = _make_rows(*work)
    return replace(settled, rows=[*settled.rows, *new])


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
