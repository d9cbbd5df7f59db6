"""What a labelling run can be told: one frozen tree, filled from four places.

    flags  >  PIXELLM_* variables  >  the YAML file of --config  >  defaults

A setting has one name in all of them: `--replica.batch-questions 8` is the same as
`PIXELLM_REPLICA__BATCH_QUESTIONS=8` and, in the file, `replica: {batch_questions: 8}`. The text
under a field is its `--help`. How the tree is filled, and what is refused, is in
`workers.settings_sources`.

No secrets are settings: credentials come from the usual AWS chain only.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import NoDecode
from typing_extensions import TypeAliasType

import pixellm
from pixellm.answers import DecodeSettings
from workers.errors import RecordRejected
from workers.records.instructions import Instruction, make_instruction
from workers.records.pictures import PictureLimits
from workers.records.record import FieldMap
from workers.settings_places import Place as Place
from workers.settings_places import read_place
from workers.settings_sources import SettingsTree, Verbatim
from workers.stopping import GRACE_SECONDS, Stop, read_deadline

SHIPPED_MODEL = str(Path(pixellm.__file__).parent / "shipped" / "drawn")
MIB = 2**20


def _lines(value: object) -> object:
    """A variable or a YAML scalar holds one text a line."""
    return tuple(value.splitlines()) if isinstance(value, str) else value


def cut_names(value: object) -> object:
    """A variable or a YAML scalar holds names with commas between them."""
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value


def _count(value: object) -> object:
    if isinstance(value, str) and not value.strip().lstrip("+-").isdecimal() and value != "auto":
        raise ValueError(f"must be a whole number or auto, not {value!r}")
    return None if value == "auto" else value


def _when(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return read_deadline(value, datetime.now(UTC))
    except ValueError as error:
        raise ValueError(
            f"{error}; give a duration (5h30m), a time of day in UTC (06:00), or a time with its"
            " zone (2027-01-31T06:00Z)"
        ) from error


def _home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:  # `~name`
        raise ValueError(f"there is no such user here as in '{path}'") from error


def _askable(text: str) -> str:
    try:
        return make_instruction(text).text
    except RecordRejected as error:
        raise ValueError(error.message) from error


# An alias that has a name is what `--help` writes behind the flag, in the place of its type.
TEXT = TypeAliasType("TEXT", tuple[Annotated[str, AfterValidator(_askable)], ...])
FILE = TypeAliasType("FILE", str)
COUNT = TypeAliasType("COUNT", Annotated[int, Field(ge=1, le=1_000_000)] | None)
PLACES = TypeAliasType("PLACES", tuple[Annotated[str, AfterValidator(read_place)], ...])
NAMES = TypeAliasType("NAMES", tuple[str, ...])
WHEN = TypeAliasType("WHEN", datetime | None)

File = Annotated[FILE, AfterValidator(read_place)]
Texts = Annotated[TEXT, NoDecode, BeforeValidator(_lines), Verbatim]
Places = Annotated[PLACES, NoDecode, BeforeValidator(_lines), Verbatim]
Count = Annotated[COUNT, BeforeValidator(_count)]
Names = Annotated[NAMES, NoDecode, BeforeValidator(cut_names)]
When = Annotated[WHEN, NoDecode, BeforeValidator(_when)]


class Group(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FieldNames(Group):
    """Names in the input."""

    image: Names = FieldMap().image
    """the image: an address, or its bytes; names with commas between them"""
    instructions: Names = FieldMap().instructions
    """what is asked"""
    source_id: Names = FieldMap().source_id
    """your own id of the record, kept in its rows"""
    classes: Names = FieldMap().classes
    """names that the phrases of an answer are sorted into"""
    meta: Names = FieldMap().meta
    """other things that are kept in the rows"""


class Reading(Group):
    """How the input is read."""

    records_per_shard: int = Field(default=64, ge=1, le=100_000)
    """most records in a shard: what is lost and done again when a worker dies"""
    roots: Places = ()
    """folders or buckets that images may lie in besides the input"""
    threads: int = Field(default=8, ge=1, le=256)
    """images that one replica fetches and decodes at once"""
    pictures: int | None = Field(default=None, ge=1, le=10_000)
    """images that one replica holds ready for the model at once; without it, 64, or 256 beside a
    GPU"""
    max_image_mib: int = Field(default=PictureLimits().max_bytes // MIB, ge=1)
    """larger image files are rejected, in MiB"""
    max_image_pixels: int = Field(default=PictureLimits().max_pixels, ge=1)
    """images with more pixels are rejected"""
    fields: FieldNames = FieldNames()
    """which keys or columns of the input mean what; of several, the first with a value counts"""


class Replica(Group):
    """One copy of the model and its worker process."""

    num_cpus: int | None = Field(default=None, ge=1)
    """CPUs that Ray keeps for a replica, and its threads; without it, 1 beside a GPU, else a fair
    share of the machine"""
    shards_in_flight: int = Field(default=4, ge=1, le=64)
    """shards that a replica works on at once, so that its batches stay full"""
    batch_questions: Count = None
    """most questions that the model answers at once; auto, as without it, is as many as memory
    holds (most of what a GPU has free once the model is loaded, a tenth of a machine's without
    GPU) and as the pictures of --reading.pictures have"""
    replay_steps: Literal["auto", "yes", "no"] = "auto"
    """pad the steps of the model to few shapes, record each shape once as a CUDA graph and replay
    it, so that a GPU doesn't wait for Python; auto is yes on a GPU and no on a CPU"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of weights and arithmetic; auto is bf16 on a GPU and fp32 on a CPU"""


class Decoding(Group):
    """How an answer is made."""

    max_new_tokens: int = Field(default=DecodeSettings().max_new_tokens, ge=1, le=100_000)
    """longest answer, in tokens"""
    official_groups: bool = DecodeSettings().official_groups
    """drop all masks of an answer with an incomplete token group, as the official code does"""
    folded_projector: bool = DecodeSettings().folded_projector
    """compute two linear steps of an image's maps as one: at the released sizes a seventh less work
    for each image before the language model, and masks that may differ by a rounding"""


class LabelSettings(SettingsTree):
    """Labels images with PixelLM: a table of masks (Parquet), and COCO if asked for.

    python jobs/label.py --input photos --output labels --instruction "the mugs on the table"

    A setting may also stand in a variable (PIXELLM_REPLICA__PRECISION=fp32 is --replica.precision
    fp32) or in a YAML file (--config), as `replica: {precision: fp32}`. Flags go before variables,
    and variables before the file.
    """

    input: Place
    """what to label: a folder or s3://bucket/prefix with JSONL, Parquet, tar files or images, or
    one such file"""
    output: Place
    """where the labels go: a folder or s3://bucket/prefix; a second run finishes what is left"""
    model: Place | None = None
    """model folder or s3://bucket/prefix (safetensors); without it, the small model that comes
    with the project"""
    adapter: Place | None = None
    """folder or s3://bucket/prefix of what `jobs/train.py --result adapter` learned from that
    model, or of a LoRA that PEFT wrote; it is merged into the model, and part of what identifies a
    label"""
    calibration: File | None = None
    """JSON file that turns one of the raw scores into `score`: a path or s3://bucket/key; part of
    what identifies a label. Without it, `score` is the same as `score_mask`"""
    instruction: Texts = ()
    """asked of every image that comes without instructions of its own; one text or several"""
    num_gpus_per_replica: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """GPUs for each replica, 0 for none; without it, 1 where this machine has a GPU, else 0"""
    min_replicas: int = Field(default=1, ge=1)
    """replicas to start with"""
    max_replicas: int | None = Field(default=None, ge=1)
    """most replicas; without it, as many as the GPUs allow, or without GPUs one a machine"""
    export_coco: Place | None = None
    """write the labels of this run to this COCO file at the end"""
    refresh: bool = False
    """look at every image again: ask what is new, was replaced, was missing or failed; all other
    labels are taken over"""
    dry_run: bool = False
    """list the shards and what is left to do, and write nothing"""
    deadline: When = None
    """begin nothing after this: a duration (5h30m), a time of day in UTC (06:00), or a time with
    its zone (2027-01-31T06:00Z); the same command does the rest"""
    max_gpu_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """begin nothing once the replicas of this start have had so many GPU hours together"""
    grace_seconds: int = Field(default=GRACE_SECONDS, ge=0)
    """what shards under way get to end and be committed, when a deadline has come or the process
    was asked to end (SIGTERM)"""
    log_format: Literal["text", "json"] = "text"
    """what is said while it runs: lines for people, or a JSON object a line, with time, level, and
    the ids of run, shard and record; replicas write theirs to Ray's log files then"""
    model_cache: Annotated[Path, AfterValidator(_home)] = Field(
        default=Path("~/.cache/pixellm"), validate_default=True
    )
    """folder of each machine where models from a bucket are kept"""
    model_cache_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """most that models and adapters from buckets may take of that folder, in GiB: when a new one
    needs the room, those that were used longest ago are removed, never one in use; without it, as
    much as the disk holds"""
    config: FILE | None = None
    """YAML file with settings: a path or s3://bucket/key"""
    reading: Reading = Reading()
    """how the input is read"""
    replica: Replica = Replica()
    """one copy of the model and its worker process"""
    decoding: Decoding = Decoding()
    """how an answer is made; part of what identifies a label"""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(
                f"--max-replicas {self.max_replicas} is less than --min-replicas"
                f" {self.min_replicas}"
            )
        return self

    @property
    def model_place(self) -> str:
        """Where the model lies."""
        return self.model or SHIPPED_MODEL

    @property
    def questions(self) -> tuple[Instruction, ...]:
        """What is asked of images that come without instructions."""
        return tuple(make_instruction(text) for text in self.instruction)

    @property
    def field_map(self) -> FieldMap:
        """Which keys of the input mean what."""
        return FieldMap(**self.reading.fields.model_dump())

    @property
    def picture_limits(self) -> PictureLimits:
        """Which images are too large."""
        return PictureLimits(self.reading.max_image_mib * MIB, self.reading.max_image_pixels)

    @property
    def pictures_at_once(self) -> int:
        """Images that one replica holds ready, once it is settled whether it has a GPU."""
        return self.reading.pictures or (256 if self.num_gpus_per_replica else 64)

    def make_stop(self) -> Stop:
        """A new count of what may end the work early."""
        return Stop(self.deadline, self.max_gpu_hours, self.grace_seconds)

    @property
    def decode_settings(self) -> DecodeSettings:
        """What the engine is told."""
        return DecodeSettings(**self.decoding.model_dump())
