"""What an import can be told: flags only, as for an export."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import TypeAliasType

from workers.imports.formats import FORMATS
from workers.imports.source import ABSENT, MaskOf, Referring, Source
from workers.imports.wording import NAME_FORM, SENTENCE_FORM
from workers.records.pictures import PictureLimits
from workers.settings_names import flag_of
from workers.settings_places import Place
from workers.settings_sources import FlagSettings

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(FORMATS)]  # so that --help and the error message list them

MIB = 2**20


def _form(text: str) -> str:
    if text.count("{}") != 1:
        raise ValueError(f"must hold {{}} once, where the words of the source go, not {text!r}")
    return text


# What `--help` writes behind a flag, in the place of its type.
FORM = TypeAliasType("FORM", str)
SPLIT = TypeAliasType("SPLIT", str)
Form = Annotated[FORM, AfterValidator(_form)]
_FORMS = ", ".join(f"{name} ({each.about})" for name, each in FORMATS.items())
_OPTIONS = frozenset().union(*(each.takes for each in FORMATS.values()))


class ConvertSettings(FlagSettings):
    """Imports labels that people made into a label table, which is trained on and scored against.

    python jobs/convert.py --from muse --input MUSE_train.json --images coco --output gold

    A second start of the same command finishes what is left, and does nothing when all is done.
    """

    form: FormatName = Field(alias="from", description=f"the form of the input: {_FORMS}")
    input: Place
    """the file, or the folder of reasonseg: a path or s3://bucket/key"""
    output: Place
    """where the label table goes: a folder or s3://bucket/prefix, one for each input"""
    images: Place | None = None
    """the folder with the images, or s3://bucket/prefix; without it, where the input lies"""
    instances: Place | None = None
    """of refcoco: the COCO file with its annotations; without it, instances.json beside the input,
    unless they stand in the input itself"""
    split: SPLIT | None = None
    """of refcoco: only references of this split, such as val"""
    referring: Referring = "both"
    """of refcoco: ask for expressions one by one (single), several at once (multi), or both"""
    absent: int = Field(default=ABSENT, ge=0, le=100_000)
    """of coco: how many categories that an image has not are asked of it, as questions that nothing
    matches"""
    mask_of: MaskOf = "instance"
    """of coco: a mask for each instance, or one for all of a category in an image: for surfaces
    that nobody counts, such as water, and for more things than an answer can name one by one"""
    name_form: Form = NAME_FORM
    """of refcoco, coco and reasonseg: how something that has a name is asked for; '{}' asks with
    the name alone"""
    sentence_form: Form = SENTENCE_FORM
    """of muse, referring and reasonseg: how a sentence is asked"""
    records_per_part: int = Field(default=256, ge=1, le=100_000)
    """entries in a part of the table: what is lost and done again when the job is killed"""
    max_image_mib: int = Field(default=PictureLimits().max_bytes // MIB, ge=1)
    """larger image files are rejected, in MiB"""
    max_image_pixels: int = Field(default=PictureLimits().max_pixels, ge=1)
    """images with more pixels are rejected"""
    refresh: bool = False
    """look at every image again, also when all is done: for images that were missing or broken"""

    @property
    def source(self) -> Source:
        """What is read, and how it is asked."""
        folder = self.input if FORMATS[self.form].is_folder else self.input.rpartition("/")[0]
        return Source(
            input=self.input,
            images=self.images or folder or "/",
            instances=self.instances,
            split=self.split,
            referring=self.referring,
            absent=self.absent,
            mask_of=self.mask_of,
            name_form=self.name_form,
            sentence_form=self.sentence_form,
        )

    @property
    def picture_limits(self) -> PictureLimits:
        """Which images are too large."""
        return PictureLimits(self.max_image_mib * MIB, self.max_image_pixels)

    @model_validator(mode="after")
    def _refuse_what_means_nothing(self) -> Self:
        """A setting that is silently ignored looks as if it had been followed."""
        takes = FORMATS[self.form].takes
        if idle := sorted((self.model_fields_set & _OPTIONS) - takes):
            flags = ", ".join(flag_of([name]) for name in sorted(takes))
            raise ValueError(
                f"{flag_of(idle[:1])} means nothing for --from {self.form}, which takes {flags}"
            )
        return self
