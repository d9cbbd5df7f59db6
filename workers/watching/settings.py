"""What a watcher can be told: all that a labelling run can, and when it looks for what is new."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode
from typing_extensions import TypeAliasType

from workers.exports.settings import FormatName
from workers.settings import LabelSettings, Place, cut_names
from workers.storage.uris import under

FORMS = TypeAliasType("FORMS", tuple[FormatName, ...])
Forms = Annotated[FORMS, NoDecode, BeforeValidator(cut_names)]


class WatchSettings(LabelSettings):
    """Labels what is dropped under a prefix, by itself: a folder of labels for each drop.

    python jobs/watch.py --input s3://bucket/in --output s3://bucket/labels --instruction "the mugs"

    A drop is a folder of the input. It is labelled once it says that it is complete (a file _READY
    in it) or has not changed for a while; and again when something in it is replaced, added or
    removed. All settings of jobs/label.py hold for it, but for --dry-run and --export-coco.
    """

    input: Place
    """what is watched: a folder or s3://bucket/prefix whose folders are drops"""
    output: Place
    """where the labels go: a folder or s3://bucket/prefix, in it a folder for each drop"""
    once: bool = False
    """label what is there now, and end: for cron and other schedules"""
    queue_url: str | None = None
    """SQS queue that the bucket tells about new objects, so that drops are seen within seconds;
    without it, and besides it, the input is listed again and again"""
    settle_seconds: float = Field(default=60, ge=0, le=86_400)
    """without a change, after which a drop without a _READY counts as complete"""
    sweep_seconds: float = Field(default=300, ge=1, le=86_400)
    """between two listings of the whole input"""
    lease_seconds: float = Field(default=60, ge=1, le=3_600)
    """after which another watcher takes over what a dead one had in hand"""
    drops_at_once: int = Field(default=32, ge=1, le=1_000)
    """most drops that are labelled together, by the same replicas; the others are left for other
    watchers, or for later"""
    exports: Forms = ()
    """write the labels of each drop in other forms, too, beside them: names of forms of
    jobs/export.py with commas between them, such as coco,sheet for coco.json and sheet.png"""
    coco: bool = False
    """the same as --exports coco"""

    @property
    def forms(self) -> tuple[str, ...]:
        """The names of the forms that labels are also written in, each once."""
        asked = ("coco", *self.exports) if self.coco else self.exports
        return tuple(dict.fromkeys(asked))

    @model_validator(mode="after")
    def _for_many_drops(self) -> Self:
        if self.export_coco is not None:
            raise ValueError("--export-coco names one file, and a watcher has many drops: --coco")
        if self.dry_run:
            raise ValueError("--dry-run is for jobs/label.py: a watcher has no plan of its own")
        if under(f"{self.input}/", self.output) is not None:
            raise ValueError(
                "--input lies in --output, whose folders are never taken for drops: give an output"
                " beside the input, or in a folder of it"
            )
        if self.refresh and not self.once:
            raise ValueError("--refresh asks for all again, and so would never end: add --once")
        return self
