"""What an export can be told: flags only.

A forgotten variable in the environment must not redirect an export.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import TypeAliasType

from workers.exports.formats import FORMATS
from workers.exports.selection import SHEET_CARDS, ExportOptions
from workers.settings_names import flag_of
from workers.settings_places import RUN, Place
from workers.settings_sources import FlagSettings

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(FORMATS)]  # so that --help and the error message list them

RULE = TypeAliasType("RULE", str)
"""What `--help` writes behind a flag, in the place of its type."""

MAX_CARDS = 100
"""A picture of 17,000 lines and some 80 MB of memory; viewers refuse those of 90 megapixels."""
_FORMS = ", ".join(f"{name} ({each.about})" for name, each in FORMATS.items())
_AGAIN = "jobs/convert.py reads again those that its --from names"
_OPTIONS = frozenset(field.name for field in fields(ExportOptions))


class ExportSettings(FlagSettings):
    """Writes a label table in a form of other tools; only what is committed is read.

    python jobs/export.py --labels labels --output coco.json
    python jobs/export.py --labels labels --output sheet.png --to sheet
    """

    labels: Place
    """the --output of jobs/label.py or jobs/convert.py: a folder, or s3://bucket/prefix"""
    output: Place
    """the file to write: a path, or s3://bucket/key"""
    to: FormatName = Field(default="coco", description=f"the form to write: {_FORMS}; {_AGAIN}")
    segmentation: Literal["rle", "polygon"] = "rle"
    """of coco: masks as compressed run lengths, or as polygons (for tools that can't read run
    lengths)"""
    categories: RULE = "phrase"
    """of coco: phrase (one category for each phrase; those of an imported file keep names and ids),
    object (one for all), or a JSON or YAML file that maps phrases to categories: {"red mug": "mug",
    "plate": {"id": 7, "name": "dish"}}"""
    cards: int = Field(default=SHEET_CARDS, ge=1, le=MAX_CARDS)
    """of a sheet: how many answers it shows, one for each image and instruction"""
    run: RUN | None = None
    """the id of the run to export, as the label job prints it; without it, the newest finished
    one"""
    min_score: float = Field(default=0.0, ge=0.0, le=1.0)
    """of coco and a sheet: leave out masks with a lower score, 0 to 1"""

    @model_validator(mode="after")
    def _refuse_what_means_nothing(self) -> Self:
        """A setting that is silently ignored looks as if it had been followed."""
        takes = FORMATS[self.to].takes
        if idle := sorted((self.model_fields_set & _OPTIONS) - takes):
            flags = ", ".join(flag_of([name]) for name in sorted(takes)) or "none of its kind"
            raise ValueError(
                f"{flag_of(idle[:1])} means nothing for --to {self.to}, which takes {flags}"
            )
        return self
