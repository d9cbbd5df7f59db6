"""Finished runs, and what readers of an output read.

    OUTPUT/_runs/<run>.<digest>.jsonl.gz     1 all markers of the plan, in one object
    OUTPUT/_runs/<run>.json                  2 the manifest: the run is finished, and 1 is its table

Killed before 2, the next start finds nothing left to label and writes both. What is read:

    a run has a manifest   the shards in it and no others: what an older plan committed and the
                           newest plan no longer has is history, not data
    a run has none         all its markers
    no run is named        the run whose manifest is newest; where nothing is finished, the only
                           run that has markers

A run that is labelled again because its input changed keeps its old manifest, and readers the old
table, until the new plan is committed whole and the manifest is replaced.
"""

import gzip
import io
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import islice

from workers.errors import CommitError, ObjectMissing
from workers.labels.commits import (
    MARKERS,
    Commit,
    JsonFile,
    Ledger,
    marker_uri,
    now,
    part_name,
)
from workers.labels.sums import Sums
from workers.packed import PackedSet
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown, under

RUNS = "_runs"  # folder of the output
READERS = 16  # requests under way at once: at 30 ms each, some 500 markers a second
AT_ONCE = 1_000  # markers asked for before the first of them is used; some 2 MB


@dataclass(frozen=True, slots=True)
class Manifest(JsonFile, Sums):
    """A run that is finished: every shard of its plan is committed."""

    LATER = ("model_sha256", "adapter_sha256")

    run_id: str
    input: str
    settings_digest: str
    fingerprint: str
    planned_at: str
    """When the input was about to be listed: UTC, ISO 8601."""
    finished_at: str
    """Likewise; just after that of any other, also where a clock was wrong."""
    plan_sha256: str
    """Of the sorted shard ids, one a line."""
    commits: str
    """Path below the output of the object with all markers."""
    shards: int
    model_sha256: str
    """Of the model that made the labels; empty where people did."""
    adapter_sha256: str
    """Of the adapter that was merged into it; empty without one."""


def finish_run(
    ledger: Ledger,
    plan: Iterable[str],
    *,
    planned_at: str,
    source: str,
    settings_digest: str,
    fingerprint: str,
    model_sha256: str = "",
    adapter_sha256: str = "",
) -> Manifest:
    """Write the manifest of a run whose shards are all committed; nothing when it says so already.

    Nor when a newer plan of the same run is finished: two starts may overlap, and the one that
    listed the input first may end last. Its commits stay, and the newer plan is the table.

    Args:
        ledger: of the run.
        plan: the ids of all shards of the plan.
        planned_at: when the input was about to be listed, from `commits.now`.
        source: the input prefix.
        settings_digest: of the settings, for whoever asks how this table was made.
        fingerprint: label fingerprint of the run.
        model_sha256: of the model, if one made the labels.
        adapter_sha256: of its adapter, if it had one.

    Raises:
        CommitError: a shard of the plan is not committed.
    """
    ids = PackedSet(plan)
    plan_digest = _digest_lines(ids)
    before = read_manifest(ledger.store, ledger.output, ledger.run_id)
    if before and before.plan_sha256 == plan_digest and before.settings_digest == settings_digest:
        return before
    _check_whole(ledger, ids)
    if before and planned_at < before.planned_at <= now():  # a wrong clock must not hold for ever
        return before
    name, sums = _put_markers(ledger, ids)
    manifest = Manifest(
        run_id=ledger.run_id,
        input=source,
        settings_digest=settings_digest,
        fingerprint=fingerprint,
        planned_at=planned_at,
        finished_at=_after_all(ledger.store, ledger.output),
        plan_sha256=plan_digest,
        commits=name,
        shards=len(ids),
        model_sha256=model_sha256,
        adapter_sha256=adapter_sha256,
        **asdict(sums),
    )
    ledger.store.put(_manifest_uri(ledger.output, ledger.run_id), manifest.to_json())
    return manifest


def read_manifest(store: Store, output: str, run_id: str) -> Manifest | None:
    """The manifest of a run; None when the run is not finished."""
    uri = _manifest_uri(output, run_id)
    try:
        return Manifest.from_json(store.get(uri), uri)
    except ObjectMissing:
        return None


def manifests(store: Store, output: str) -> list[Manifest]:
    """Of all finished runs, the newest first."""
    infos = store.list(join_uri(output, RUNS))
    uris = [info.uri for info in infos if info.uri.endswith(".json")]
    found = [Manifest.from_json(store.get(uri), uri) for uri in uris]
    return sorted(found, key=lambda manifest: manifest.finished_at, reverse=True)


def _after_all(store: Store, output: str) -> str:
    """Now; or just after the newest manifest, where a clock was or is wrong.

    Readers and the next start go by the newest: one from the future would stand for all that time.
    """
    moment, newest = now(), max((each.finished_at for each in manifests(store, output)), default="")
    if moment > newest:
        return moment
    after = datetime.fromisoformat(newest) + timedelta(microseconds=1)
    return after.isoformat(timespec="microseconds")


def current_commits(store: Store, output: str, run_id: str | None = None) -> Iterator[Commit]:
    """The commits that make up the label table now, sorted by shard id; see the module's top.

    Raises:
        CommitError: nothing has been committed, or several runs and none of them finished.
    """
    finished = [read_manifest(store, output, run_id)] if run_id else manifests(store, output)[:1]
    if finished and (manifest := finished[0]):
        yield from _unpack(store, output, manifest)
        return
    names = _marker_names(store, output, run_id)
    if not names:
        of_run = f" by the run {run_id!r}" if run_id else ""
        made = "" if run_id else ", which is no --output of jobs/label.py or jobs/convert.py yet"
        raise CommitError(f"nothing has been committed{of_run} under {shown(output)}{made}")
    if len(names) > 1:
        raise CommitError(
            f"several runs are under way and none is finished under {shown(output)}: "
            f"{', '.join(sorted(names))}. Name the one to read."
        )
    ((run, ids),) = names.items()
    yield from _read_markers(store, output, run, ids)


def stale_commits(
    store: Store,
    output: str,
    *,
    fingerprint: str,
    sources: Collection[str],
    run_id: str,
    plan: Set[str],
) -> Iterator[Commit]:
    """Earlier work on the same input, whose unchanged rows need not be computed again.

    Costs two requests a finished run, one for each marker that is in no manifest, and a single
    one for the markers of a run with another fingerprint.

    Args:
        store: where the output lies.
        output: prefix of the output.
        fingerprint: rows of another label fingerprint are no substitute for new ones.
        sources: the `Shard.source` of the shards that are to be labelled.
        run_id: the run that is about to label them.
        plan: ids of its shards; what it has committed of these is current, not stale.

    Yields:
        Commits in a stable order, the newest manifest first; each part is given once.
    """
    given: set[str] = set()
    for commit in _of_fingerprint(store, output, fingerprint, given):
        given.add(commit.part)
        current = commit.shard_id in plan and commit.part == part_name(run_id, commit.shard_id)
        if commit.source in sources and not current:
            yield commit


def _of_fingerprint(
    store: Store, output: str, fingerprint: str, given: Set[str]
) -> Iterator[Commit]:
    """First from the manifests, then the markers that were not `given` so far."""
    for manifest in manifests(store, output):
        if manifest.fingerprint == fingerprint:
            yield from _unpack(store, output, manifest)
    for run, ids in _marker_names(store, output).items():
        left = [shard_id for shard_id in ids if part_name(run, shard_id) not in given]
        sample = next(_read_markers(store, output, run, left[:1]), None)
        if sample and sample.fingerprint == fingerprint:
            yield from _read_markers(store, output, run, left)


def _digest_lines(lines: Iterable[str]) -> str:
    digest = sha256()
    for number, line in enumerate(lines):
        digest.update(f"{chr(10) if number else ''}{line}".encode())
    return digest.hexdigest()


def _check_whole(ledger: Ledger, ids: Collection[str]) -> None:
    committed = ledger.committed_ids()
    if missing := [each for each in ids if each not in committed]:
        raise CommitError(
            f"{len(missing)} of {len(ids)} shards of the run {ledger.run_id!r} are not committed, "
            f"{missing[0]!r} for one. Start the same command again: it does what is left."
        )


def _manifest_uri(output: str, run_id: str) -> str:
    return join_uri(output, RUNS, f"{run_id}.json")


def _put_markers(ledger: Ledger, ids: Iterable[str]) -> tuple[str, Sums]:
    """Writes all markers into one object; its path below the output, and their sums."""
    rows, errors, targets = Counter[str](), Counter[str](), 0
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:  # no clock in the bytes
        for commit in _read_markers(ledger.store, ledger.output, ledger.run_id, ids):
            file.write(commit.to_json())
            rows.update(commit.counts)
            errors.update(commit.errors)
            targets += commit.targets
    name = f"{RUNS}/{ledger.run_id}.{sha256(packed.getvalue()).hexdigest()[:16]}.jsonl.gz"
    ledger.store.put(join_uri(ledger.output, name), packed.getvalue())
    return name, Sums(rows=rows.total(), counts=dict(rows), errors=dict(errors), targets=targets)


def _unpack(store: Store, output: str, manifest: Manifest) -> Iterator[Commit]:
    uri = join_uri(output, manifest.commits)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(store.get(uri))) as file:
            for line in file:
                yield Commit.from_json(line, uri)
    except (ObjectMissing, OSError, EOFError, zlib.error) as error:
        own = shown(_manifest_uri(output, manifest.run_id))
        raise CommitError(
            f"{shown(uri)} is damaged or gone ({error}). Remove it and {own}, and start the run"
            " again: both are made anew of the markers."
        ) from error


def _marker_names(store: Store, output: str, run_id: str | None = None) -> dict[str, list[str]]:
    """Shard ids by run, both sorted, from the names alone; of all runs, or of one."""
    root = join_uri(output, MARKERS)
    names: dict[str, list[str]] = defaultdict(list)
    for info in store.list(join_uri(root, run_id) if run_id else root):
        run, _, name = (under(info.uri, root) or "").partition("/")
        if name.endswith(".json"):
            names[run].append(name.removesuffix(".json"))
    return dict(names)


def _read_markers(store: Store, output: str, run: str, ids: Iterable[str]) -> Iterator[Commit]:
    def read(shard_id: str) -> Commit:
        uri = marker_uri(output, run, shard_id)
        return Commit.from_json(store.get(uri), uri)

    waiting = iter(ids)
    with ThreadPoolExecutor(READERS) as pool:
        while some := list(islice(waiting, AT_ONCE)):
            yield from pool.map(read, some)
