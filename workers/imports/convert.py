"""An import from its beginning to its end: what a start finds done, does, and leaves behind.

    source -> entries -> rows -> parts -> commits -> manifest

A second start of the same command goes on where the first was ended, and does nothing when all is
done. Parts are numbered in the order of the source; for those that are committed the entries are
read over, and no image is fetched.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count, islice

from workers.errors import AccessDenied, ObjectMissing, PlanError
from workers.imports.formats import FORMATS
from workers.imports.gold import GoldRecord
from workers.imports.plan import Conversion
from workers.imports.rows import gold_rows
from workers.labels.commits import Guarantee, Ledger, writing_output
from workers.labels.manifests import finish_run, read_manifest
from workers.labels.rows import Attempt
from workers.labels.schema import LabelRow
from workers.labels.sums import Sums
from workers.labels.table import PartIdentity, write_part
from workers.labels.targets import IGNORE_REGION
from workers.storage.uris import shown
from workers.wording import Say

THREADS = 8  # that fetch and decode images; a bucket takes some 30 ms for each
TOLD_EVERY = 20  # parts

_Examples = dict[str | None, str | None]


@dataclass(frozen=True, slots=True)
class ConvertSummary(Sums):
    """What became of an import."""

    run_id: str
    output: str
    parts: int
    found_committed: int
    """of these, before this start"""
    entries: int | None
    """of the source; None when it was not read, since all was done"""
    left_out: Counter[str] = field(default_factory=Counter)
    """entries that were not asked for, by reason"""
    examples: _Examples = field(default_factory=dict)
    """`error_code` -> the message of one row, of those of this start"""
    regions: int = 0
    """to ignore, of this start; they are counted as targets, too"""


def convert(conversion: Conversion, say: Say) -> ConvertSummary:
    """Imports what is left and, when all is committed, writes the manifest.

    Memory: that of the form, and the rows of one part.

    Args:
        conversion: from `plan_conversion`.
        say: takes lines for the user.

    Raises:
        PlanError: the source turns out to be no JSON, or another form, or it changed meanwhile.
        OutputUnwritable: the output takes nothing.
        StorageError: a store failed.
    """
    ledger = conversion.ledger
    if done := read_manifest(ledger.store, ledger.output, ledger.run_id):
        say(f"nothing to do: {done.shards:,} parts, all committed")
        sums = Sums(rows=done.rows, counts=done.counts, errors=done.errors, targets=done.targets)
        return _summarise(conversion, sums, done.shards, done.shards, None)
    _require_images(conversion)
    _probe(ledger, say)
    committed, left_out = ledger.committed_ids(), Counter[str]()
    records = FORMATS[conversion.settings.form].read(conversion.source, left_out)
    entries, parts, flags, examples = 0, list[str](), Counter[str](), _Examples()
    with ThreadPoolExecutor(THREADS) as threads:
        for shard_id, batch in _cut(records, conversion.settings.records_per_part):
            if shard_id not in committed:
                rows = _commit(shard_id, batch, conversion, threads)
                flags.update(flag for row in rows for flag in row.qa_flags)
                told = {each.error_code: each.error_message for each in reversed(rows)}
                examples = told | examples
            parts.append(shard_id)
            entries += len(batch)
            if len(parts) % TOLD_EVERY == 0:
                say(f"{entries:,} entries in {len(parts):,} parts")
    if without_pixels := flags["empty_mask"]:
        say(
            f"{without_pixels:,} rows have a mask without a pixel (flag `empty_mask`): nothing is"
            " learned from them, and no answer can find it"
        )
    _check_unchanged(conversion)
    manifest = finish_run(
        ledger,
        parts,
        planned_at=conversion.planned_at,
        source=conversion.settings.input,
        settings_digest=conversion.request,
        fingerprint=conversion.provenance.label_fingerprint,
    )
    found = len(committed & set(parts))
    summary = _summarise(conversion, manifest, len(parts), found, entries)
    regions = flags[IGNORE_REGION]  # one a row, at most
    return replace(summary, left_out=left_out, examples=examples, regions=regions)


def _summarise(
    conversion: Conversion, sums: Sums, parts: int, found: int, entries: int | None
) -> ConvertSummary:
    return ConvertSummary(
        rows=sums.rows,
        counts=dict(sums.counts),
        errors=dict(sums.errors),
        targets=sums.targets,
        run_id=conversion.ledger.run_id,
        output=conversion.ledger.output,
        parts=parts,
        found_committed=found,
        entries=entries,
    )


def _cut(records: Iterator[GoldRecord], size: int) -> Iterator[tuple[str, Sequence[GoldRecord]]]:
    """Parts of so many entries, with ids that sort as in the source."""
    for number in count():
        if not (batch := list(islice(records, size))):
            return
        yield f"{number:08}", batch


def _commit(
    shard_id: str, batch: Sequence[GoldRecord], conversion: Conversion, threads: ThreadPoolExecutor
) -> Sequence[LabelRow]:
    """Makes a part of some entries; its rows."""
    run, limits = conversion.provenance, conversion.settings.picture_limits
    attempt = Attempt(run, shard_id, 1, datetime.now(UTC))

    def make(index: int, gold: GoldRecord) -> list[LabelRow]:
        return gold_rows(index, gold, attempt, conversion.source.store, limits)

    rows = [row for made in threads.map(make, range(len(batch)), batch) for row in made]
    due = sum(max(1, len(gold.questions)) for gold in batch)
    assert len(rows) == due, "a row for each question, and one for an entry without any"
    part = write_part(rows, PartIdentity(run.run_id, shard_id, run.label_fingerprint))
    with writing_output():
        conversion.ledger.commit(
            shard_id,
            part,
            fingerprint=run.label_fingerprint,
            source=conversion.settings.input,
            source_etag=conversion.digest,
        )
    return rows


def _require_images(conversion: Conversion) -> None:
    """With a mistyped place every row would be rejected, and the run be done."""
    images = conversion.source.images
    try:
        if conversion.source.store.any_under(images):
            return
    except AccessDenied:  # who may read images need not be allowed to list them
        return
    except ObjectMissing as error:
        raise PlanError(f"--images {shown(images)}: {error}") from error
    raise PlanError(
        f"there is no file under --images {shown(images)}: give the folder that the names of images"
        " start from, or the one above train2014, train2017 and val2017"
    )


def _check_unchanged(conversion: Conversion) -> None:
    """The run is named after what the source held; of another one it must never be the table."""
    if FORMATS[conversion.settings.form].digest(conversion.source) != conversion.digest:
        raise PlanError(
            f"{shown(conversion.settings.input)} changed while it was imported, so nothing of it"
            " counts. Start the same command again"
        )


def _probe(ledger: Ledger, say: Say) -> None:
    with writing_output():
        guarantee = ledger.probe()
    if guarantee is Guarantee.AT_LEAST_ONCE:
        say(
            f"{shown(ledger.output)} has no conditional writes: do not start the same command"
            " twice at a time"
        )
