"""Writes a label table as COCO.

    python jobs/export.py --labels s3://bucket/out --to coco --output coco.json

Exit code 0: written and found sound. 1: could not be written, with the reason. 2: a bad setting.
"""

import functools
import sys
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pixellm.errors import PixelLMError
from workers.categories import Categories, read_category_map
from workers.coco import ExportOptions, ExportSummary, export_coco
from workers.errors import SettingsError
from workers.manifests import current_commits
from workers.storage import normalise_uri, open_store, shown
from workers.table import read_rows

_RULES: dict[str, Literal["phrase", "object"]] = {"phrase": "phrase", "object": "object"}


class ExportSettings(BaseSettings):
    """Writes a label table as COCO; only masks of committed shards are read."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_prog_name="python jobs/export.py",
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    labels: str
    """the output prefix of jobs/label.py: a folder, or s3://bucket/prefix"""
    output: str
    """the file to write: a path, or s3://bucket/key"""
    to: Literal["coco"] = "coco"
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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags only: a forgotten OUTPUT or RUN in the environment must not redirect an export."""
        return (init_settings,)


def main(arguments: list[str] | None = None) -> int:
    """Runs one export; returns the exit code."""
    try:
        settings = CliApp.run(ExportSettings, cli_args=arguments)
        summary = _export(settings)
    except ValidationError as error:
        return _complain(_first_problem(error), 2)
    except SettingsError as error:
        return _complain(f"{error}", 2)
    except PixelLMError as error:
        return _complain(f"{error}", 1)
    print(_describe(summary, settings.output))
    return 0


def _export(settings: ExportSettings) -> ExportSummary:
    categories = _read_categories(settings.categories)
    labels, output = normalise_uri(settings.labels), normalise_uri(settings.output)
    store = open_store(labels)
    # the commits are listed once: a run that goes on must not change between the two passes
    commits = list(current_commits(store, labels, settings.run))
    rows = functools.partial(read_rows, store, labels, commits)
    options = ExportOptions(settings.segmentation, categories, settings.min_score)
    return export_coco(rows, open_store(output), output, options)


def _read_categories(text: str) -> Categories:
    if rule := _RULES.get(text):
        return rule
    uri = normalise_uri(text)
    try:
        data = open_store(uri).get(uri)
    except PixelLMError as error:
        raise SettingsError(
            f"--categories {text!r} is neither 'phrase' nor 'object' nor a file: {error}"
        ) from error
    return read_category_map(data, text)


def _describe(summary: ExportSummary, output: str) -> str:
    lines = [
        f"wrote {shown(output)}: {summary.images:,} images, {summary.annotations:,} masks,"
        f" {summary.categories:,} categories; checked with pycocotools"
    ]
    lines += [f"left out: {count:,} {reason}" for reason, count in summary.left_out.items()]
    return "\n".join(lines)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    name = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
    if problem["type"] == "missing":
        return f"--{name} is required; see --help"
    return f"--{name}: {problem['msg']}, not {problem['input']!r}"


def _complain(message: str, code: int) -> int:
    print(f"export: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
