"""What an evaluation can be told: flags only, so that no forgotten variable moves a threshold."""

from typing import TYPE_CHECKING, Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, model_validator
from typing_extensions import TypeAliasType

from workers.errors import SettingsError
from workers.labels.calibration import RAW_SCORES
from workers.scoring.options import MuseMode, ScoringOptions
from workers.scoring.thresholds import Minimum, read_minimum
from workers.settings_places import RUN, Place
from workers.settings_sources import FlagSettings
from workers.storage.uris import shown


def _minimum(text: str) -> str:
    try:
        return f"{read_minimum(text)}"
    except SettingsError as error:
        raise ValueError(f"{error}") from error


def _endpoint(text: str) -> str:
    """An address that may be shown: the key comes from the environment."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - it raises where there is no number
    except ValueError as error:
        raise ValueError(f"{shown(text)} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{shown(text)} is no address such as http://localhost:8000/v1")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError(f"{shown(text)}: an address has letters of ASCII only, and no spaces")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"{shown(text)}: the address has more than a host and a path; keys come from"
            " the variable OPENAI_API_KEY"
        )
    return text


# What `--help` writes behind a flag, in the place of its type.
URL = TypeAliasType("URL", str)
NAME = TypeAliasType("NAME", str)
MINIMUM = TypeAliasType("MINIMUM", tuple[Annotated[str, AfterValidator(_minimum)], ...])

if TYPE_CHECKING:
    RawScore = str
else:
    RawScore = Literal[RAW_SCORES]  # so that --help and the error message list them


class EvaluateSettings(FlagSettings):
    """Scores one label table against another, the gold one; only committed shards are read.

    python jobs/evaluate.py --labels labels --gold gold --output scores.json --min giou=0.5
    """

    labels: Place
    """the table that is scored, the --output of jobs/label.py: a folder, or s3://bucket/prefix"""
    gold: Place
    """the table that is true"""
    output: Place | None = None
    """a file for the scores (JSON): a path, or s3://bucket/key; what is printed is written beside
    it, under the same name with .md"""
    min: MINIMUM = ()
    """the least that a metric must be over all questions, such as giou=0.5; may be given again.
    When one is missed, the exit code is 3"""
    run: RUN | None = None
    """the id of the run that is scored; without it, the newest finished one"""
    gold_run: RUN | None = None
    """the id of the gold run"""
    muse: MuseMode = "fixed"
    """MUSE's protocol: fixed, official (as released, with its bugs; scores differ from run to run)
    or off, which saves half of the time"""
    judge_url: Annotated[URL, AfterValidator(_endpoint)] | None = None
    """an OpenAI-compatible endpoint whose model judges phrases, such as http://localhost:8000/v1;
    its key comes from the variable OPENAI_API_KEY. Without it, words are compared"""
    judge_model: NAME | None = None
    """which model of --judge-url"""
    calibrate: Place | None = None
    """fit a calibration to the gold table and write it to this file, for --calibration of
    jobs/label.py"""
    calibrate_of: RawScore = "score_phrase"
    """the raw score that it takes"""
    scratch: Place | None = None
    """a folder for what is set aside meanwhile, some KB for each row; without it, a temporary one
    of this machine. A cluster needs one that all of its machines reach"""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.judge_url is None) != (self.judge_model is None):
            raise ValueError("--judge-url and --judge-model belong together: give both, or neither")
        if self.calibrate is None and "calibrate_of" in self.model_fields_set:
            raise ValueError("--calibrate-of means nothing without --calibrate")
        return self

    @property
    def minimums(self) -> tuple[Minimum, ...]:
        """What must be reached."""
        return tuple(map(read_minimum, self.min))

    @property
    def options(self) -> ScoringOptions:
        """How questions are scored."""
        raw_score = self.calibrate_of if self.calibrate else None
        return ScoringOptions(self.muse, self.judge_url, self.judge_model, raw_score)
