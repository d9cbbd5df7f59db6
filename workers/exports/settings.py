"""What an export can be told: flags only.

A forgotten variable in the environment must not redirect an export.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from workers.exports.formats import FORMATS
from workers.settings_sources import FlagSettings

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(FORMATS)]  # so that --help and the error message list them


class ExportSettings(FlagSettings):
    """Writes a label table for other tools, as COCO for example; only committed shards are read."""

    labels: str
    """the output prefix of jobs/label.py: a folder, or s3://bucket/prefix"""
    output: str
    """the file to write: a path, or s3://bucket/key"""
    to: FormatName = "coco"
    """the form to write"""
    segmentation: Literal["rle", "polygon"] = "rle"
    """masks as compressed run lengths, or as polygons (for tools that can't read run lengths)"""
    categories: str = "phrase"
    """phrase (one category for each phrase), object (one for all), or a JSON or YAML file that
    maps phrases to categories: {"red mug": "mug", "plate": {"id": 7, "name": "dish"}}"""
    run: str | None = None
    """the id of the run to export; without it, the newest finished one"""
    min_score: float = Field(default=0.0, ge=0.0, le=1.0)
    """leave out masks with a lower score, 0 to 1"""
