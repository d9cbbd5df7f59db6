"""A run before its work begins: what there is to do, and what of it is committed already.

Shards are known by what a listing tells of their files. A picture that a list names, and that was
replaced or has appeared, changes none of them: `--refresh` makes a new run over all shards, which
looks at every picture and takes over the labels of those that are the same (`workers.earlier`).
"""

import json
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from hashlib import sha256

from workers.errors import PlanError
from workers.labels.commits import PARTS, Ledger, now
from workers.labels.run_ids import choose_run_id
from workers.model_files import ModelIdentity, identify_model
from workers.packed import Packed, PackedSet
from workers.settings import LabelSettings
from workers.shards.listings import WaitingListings
from workers.shards.plan import Plan, Shard, plan_shards
from workers.storage.stores import Anywhere
from workers.storage.uris import join_uri, shown, under
from workers.wording import Say, counted

PLANS = "_plans"  # folder of the output: lists of images that the plan refers to
SHIPPED = (
    "the small model of the project: it knows drawn scenes like those of `make demo`, and nothing "
    "else; --model takes another"
)
_told: set[str] = set()
"""What this process has told of its models: a watcher plans one drop after the other."""


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
    shards: Sequence[Shard]
    shard_ids: Set[str]
    """of all of them"""
    committed: Set[str]
    """ids of shards that need no work"""
    lists: WaitingListings
    """of images, which shards refer to; stored when work begins"""
    beside: str
    """of images that only count where a list names them; empty where there are none"""

    only: frozenset[str] | None = None
    """ids of the shards that this start is about; None for all"""

    @property
    def todo(self) -> Sequence[Shard]:
        """What is left, in the order of the plan."""
        if not self.committed and self.only is None:
            return self.shards
        left = (shard for shard in self.shards if shard.shard_id not in self.committed)
        return Packed(s for s in left if self.only is None or s.shard_id in self.only)


def plan_run(settings: LabelSettings, say: Say, *, shallow: bool = False) -> Run:
    """Finds out what there is to do, and writes nothing: that begins with `label_run`.

    Args:
        settings: with GPUs and precision settled.
        say: takes lines for the user.
        shallow: only what lies in the input itself, and not in its folders.

    Raises:
        PlanError: there is nothing to label, or nothing is asked of what there is.
        SettingsError, CheckpointError: the model can't be used.
        StorageError: a store failed.
    """
    planned_at = now()
    lists = WaitingListings(join_uri(settings.output, PLANS))
    plan = _plan(settings, lists, say, shallow=shallow)
    shards = plan.shards
    say(f"{counted(len(shards), 'shard')} in {shown(settings.input)}")
    if (model := _describe_model(settings)) not in _told:
        _told.add(model)
        say(f"identifying {model}")
    identity = identify_model(settings)
    if identity.calibration and settings.calibration:
        raw = identity.calibration.of
        say(f"`score` is {raw}, calibrated by {shown(settings.calibration)}")
    request = _digest_request(settings)
    asked = settings.input, identity.label_fingerprint, request
    run_id = choose_run_id(Anywhere(), settings.output, asked, _run_id, refresh=settings.refresh)
    ledger = Ledger(Anywhere(), settings.output, run_id)
    ids = PackedSet(shard.shard_id for shard in shards)
    return Run(
        settings=settings,
        identity=identity,
        request=request,
        planned_at=planned_at,
        ledger=ledger,
        shards=shards,
        shard_ids=ids,
        committed=ids & ledger.committed_ids(),
        lists=lists,
        beside=_describe_beside(plan),
    )


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


def _describe_model(settings: LabelSettings) -> str:
    adapter = f" and the adapter {shown(settings.adapter)}" if settings.adapter else ""
    shipped = f", {SHIPPED}" if settings.model is None else ""
    return f"the model {shown(settings.model_place)}{adapter}{shipped}"


def _plan(settings: LabelSettings, lists: WaitingListings, say: Say, *, shallow: bool) -> Plan:
    inside = under(settings.output, settings.input) is not None
    own = settings.output if inside else join_uri(settings.output, PARTS)
    plan = plan_shards(
        Anywhere(),
        settings.input,
        records_per_shard=settings.reading.records_per_shard,
        listing_writer=lists.keep,
        exclude=(own,),
        shallow=shallow,
    )
    if beside := _describe_beside(plan):
        say(beside)
    if plan.unasked and not settings.instruction:
        _tell_unasked(plan, settings, say)
    return plan


def _describe_beside(plan: Plan) -> str:
    if not plan.beside or plan.first_beside is None:
        return ""
    return (
        f"{counted(plan.beside, 'image')} beside files that list records: labelled where those "
        f"name them; {shown(plan.first_beside)} is the first of them"
    )


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


def _digest_request(settings: LabelSettings) -> str:
    """Over all that decides the rows besides the input and the label fingerprint."""
    request = {
        "questions": [asdict(question) for question in settings.questions],
        "fields": asdict(settings.field_map),
        "limits": asdict(settings.picture_limits),
        "roots": settings.reading.roots,
    }
    return sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _run_id(*parts_of_id: str) -> str:
    """The same for the same work: that is how a second start finds what the first has committed."""
    parts = "\n".join(parts_of_id)
    return f"label-{sha256(parts.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
