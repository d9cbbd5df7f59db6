"""The driver of a labelling run: what is to be done, what is left of it, and when it is finished.

    plan -> what is committed -> label the rest on Ray -> manifest

The driver holds no state of its own: all of it is in the output, so that a driver may be killed at
any moment and the same command goes on. When nothing is left, Ray isn't even started.

Shards are known by what a listing tells of their files. A picture that a list names, and that was
replaced or has appeared, changes none of them: `--refresh` makes a new run over all shards, which
looks at every picture and takes over the labels of those that are the same (`workers.earlier`).
"""

import json
import time
from collections.abc import Sequence, Set
from contextlib import closing
from dataclasses import asdict, dataclass
from hashlib import sha256

from workers.earlier import EarlierIndex, index_earlier
from workers.errors import PlanError
from workers.labels.commits import PARTS, Guarantee, Ledger, now
from workers.labels.manifests import Manifest, finish_run, manifests, stale_commits
from workers.model_files import ModelIdentity, identify_model
from workers.progress import Progress, Say, counted
from workers.replica import Assignment
from workers.settings import LabelSettings
from workers.shards.listing import write_listings_to
from workers.shards.plan import Plan, Shard, plan_shards
from workers.storage.stores import Anywhere
from workers.storage.uris import join_uri, shown, under
from workers.summaries import RunSummary, ShardSummary, Tally

PLANS = "_plans"  # folder of the output: lists of images that the plan refers to
FAILED_IN_A_ROW = 20
"""Shards that fail with none committed in between: the store is down, and it isn't about them."""
NOT_REACHED = "not reached: the run ended before"
SHIPPED = (
    "that is the small model of the project: it knows drawn scenes like those of `make demo`, and "
    "nothing else; --model takes another"
)
AT_LEAST_ONCE = (
    "has no conditional writes, so every shard is committed at least once, not exactly once: no "
    "row is lost or doubled, but where two workers end the same shard in the same moment, its "
    "marker may hold the sums of the one and its part the rows of the other. Do not start the same "
    "command twice at a time"
)


@dataclass(frozen=True, slots=True)
class Run:
    """A run before its work begins."""

    settings: LabelSettings
    """with GPUs and precision settled"""
    identity: ModelIdentity
    request: str
    """digest of what is asked: instructions, and how the input is read"""
    planned_at: str
    """when the input was about to be listed: UTC, ISO 8601"""
    ledger: Ledger
    shards: tuple[Shard, ...]
    committed: frozenset[str]
    """ids of shards that need no work"""

    @property
    def todo(self) -> list[Shard]:
        """What is left, in the order of the plan."""
        return [shard for shard in self.shards if shard.shard_id not in self.committed]


def plan_run(settings: LabelSettings, say: Say) -> Run:
    """Finds out what there is to do. A dry run writes nothing here.

    Args:
        settings: with GPUs and precision settled.
        say: takes lines for the user.

    Raises:
        PlanError: there is nothing to label, or nothing is asked of what there is.
        SettingsError, CheckpointError: the model can't be used.
        StorageError: a store failed.
    """
    planned_at = now()
    shards = _plan(settings, say).shards
    say(f"{counted(len(shards), 'shard')}; identifying the model {shown(settings.model_place)}")
    if settings.model is None:
        say(SHIPPED)
    identity = identify_model(settings)
    request = _digest_request(settings)
    run_id = _choose_run_id(settings, identity.label_fingerprint, request)
    ledger = Ledger(Anywhere(), settings.output, run_id)
    planned = {shard.shard_id for shard in shards}
    committed = frozenset(planned & ledger.committed_ids())
    return Run(settings, identity, request, planned_at, ledger, shards, committed)


def label_run(run: Run, progress: Progress) -> RunSummary:
    """Labels what is left and, when all is committed, writes the manifest.

    Raises:
        LineError: nothing could be begun: the output can't be written, or no replica starts.
    """
    started = time.monotonic()
    stopped = False
    if run.todo:
        try:
            _label_rest(run, progress)
        except KeyboardInterrupt:
            stopped = True
            progress.say("stopped; what is committed is kept, the same command does the rest")
    else:
        progress.say(f"nothing to do: {counted(len(run.shards), 'shard')}, all committed")
    return _finish(run, progress, time.monotonic() - started, stopped)


def describe_plan(run: Run) -> str:
    """The plan as text, a line a shard; what `--dry-run` prints."""
    shards = counted(len(run.shards), "shard")
    lines = [f"run {run.ledger.run_id}: {shards}, {len(run.todo):,} to do"]
    for shard in run.shards:
        state = "committed" if shard.shard_id in run.committed else "to do"
        count = counted(shard.count, "record") if shard.count >= 0 else "a whole file"
        place = f"{shard.source} from record {shard.first:,}"
        lines.append(f"{shard.shard_id}  {state:<9}  {shard.kind:<7}  {count:>16}  {place}")
    return "\n".join(lines)


def _plan(settings: LabelSettings, say: Say) -> Plan:
    keep = write_listings_to(Anywhere(), join_uri(settings.output, PLANS))
    inside = under(settings.output, settings.input) is not None
    own = settings.output if inside else join_uri(settings.output, PARTS)
    plan = plan_shards(
        Anywhere(),
        settings.input,
        records_per_shard=settings.reading.records_per_shard,
        listing_writer=_written_nowhere if settings.dry_run else keep,
        exclude=(own,),
    )
    if plan.beside:
        say(
            f"{counted(plan.beside, 'image')} beside files that list records: labelled where those "
            "name them"
        )
    if plan.unasked and not settings.instruction:
        _tell_unasked(plan, settings, say)
    return plan


def _tell_unasked(plan: Plan, settings: LabelSettings, say: Say) -> None:
    """That images will be rejected since nothing is asked of them; when all will, that is wrong."""
    if plan.unasked == plan.images:
        raise PlanError(
            f"nothing is asked of the images under {shown(settings.input)}: give --instruction "
            "TEXT, or put an _instructions.txt beside them"
        )
    say(
        f"{plan.unasked:,} of {counted(plan.images, 'image')} come without an instruction and will "
        "be rejected; with --instruction they are asked too"
    )


def _written_nowhere(_: bytes) -> str:
    return "a dry run writes no list"


def _digest_request(settings: LabelSettings) -> str:
    """Over all that decides the rows besides the input and the label fingerprint."""
    request = {
        "questions": [asdict(question) for question in settings.questions],
        "fields": asdict(settings.field_map),
        "limits": asdict(settings.picture_limits),
        "roots": settings.reading.roots,
    }
    return sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _choose_run_id(settings: LabelSettings, fingerprint: str, request: str) -> str:
    """Of the run that a start goes on with, or begins.

    A refresh is a new run with an id made of the one it refreshes, so that it is found again when
    it was killed. Once it is finished, starts without `--refresh` go on with it: its labels are
    the newest, and a run before it would bring back what it has mended.
    """
    asked = (settings.input, fingerprint, request)
    finished = next(
        (
            each.run_id
            for each in manifests(Anywhere(), settings.output)
            if (each.input, each.fingerprint, each.settings_digest) == asked
        ),
        None,
    )
    if finished is None:
        return _run_id(*asked)
    return _run_id(*asked, finished) if settings.refresh else finished


def _run_id(*parts_of_id: str) -> str:
    """The same for the same work: that is how a second start finds what the first has committed."""
    parts = "\n".join(parts_of_id)
    return f"label-{sha256(parts.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def _label_rest(run: Run, progress: Progress) -> None:
    from workers.pool import label_on_ray  # Ray takes seconds to import, and isn't always needed

    todo, failed_in_a_row = run.todo, 0
    summaries = label_on_ray(todo, _assign(run, progress.say), progress)
    with progress.running(len(todo), _count_records(todo)), closing(summaries):
        for summary in summaries:
            progress.add(summary)
            failed_in_a_row = failed_in_a_row + 1 if summary.error else 0
            if summary.ends_run or failed_in_a_row >= FAILED_IN_A_ROW:
                progress.say("the run ends here: the other shards would fail like this one")
                return


def _count_records(shards: Sequence[Shard]) -> int | None:
    """In all of the shards; None when one is a whole file, whose records nobody has counted."""
    counts = [shard.count for shard in shards]
    return sum(counts) if min(counts) >= 0 else None


def _assign(run: Run, say: Say) -> Assignment:
    """What replicas must know; finds out how the output writes, and what is labelled already."""
    guarantee = run.ledger.probe()
    if guarantee is Guarantee.AT_LEAST_ONCE:
        say(f"{shown(run.ledger.output)} {AT_LEAST_ONCE}")
    run_id = run.ledger.run_id
    return Assignment(run.settings, run.identity, run_id, guarantee, _index_earlier(run))


def _index_earlier(run: Run) -> EarlierIndex:
    store, output = run.ledger.store, run.ledger.output
    commits = stale_commits(
        store,
        output,
        fingerprint=run.identity.label_fingerprint,
        sources={shard.source for shard in run.todo},
        run_id=run.ledger.run_id,
        plan={shard.shard_id for shard in run.shards},
    )
    return index_earlier(store, output, list(commits))


def _finish(run: Run, progress: Progress, seconds: float, stopped: bool) -> RunSummary:
    tally = progress.tally
    plan = [shard.shard_id for shard in run.shards]
    committed = run.ledger.committed_ids().intersection(plan)
    failures = {
        each: tally.failures.get(each, NOT_REACHED) for each in plan if each not in committed
    }
    if failures:
        _count_unheard(run, committed, tally)
        sums: Manifest | Tally = tally
    else:
        sums = finish_run(
            run.ledger,
            plan,
            planned_at=run.planned_at,
            source=run.settings.input,
            settings_digest=run.request,
            fingerprint=run.identity.label_fingerprint,
        )
    return RunSummary(
        run_id=run.ledger.run_id,
        output=run.ledger.output,
        shards=len(plan),
        found_committed=len(run.committed),
        counts=dict(sums.counts),
        errors=dict(sums.errors),
        targets=sums.targets,
        reused=tally.reused,
        seconds=seconds,
        batch_fill=tally.batch_fill,
        failures=failures,
        stopped=stopped,
    )


def _count_unheard(run: Run, committed: Set[str], tally: Tally) -> None:
    """Counts in what replicas committed in this start and could not tell any more."""
    for shard_id in sorted(committed - run.committed - tally.done):
        if (commit := run.ledger.get(shard_id)) is not None:
            tally.add(
                ShardSummary(shard_id, commit.rows, commit.counts, commit.errors, commit.targets)
            )
