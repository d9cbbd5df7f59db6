"""How an evaluation is done: what the settings say of it."""

from dataclasses import dataclass
from typing import Literal

MuseMode = Literal["fixed", "official", "off"]


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How questions are scored."""

    muse: MuseMode = "fixed"
    """see `workers.scoring.muse`"""
    judge_url: str | None = None
    """of an OpenAI-compatible endpoint that judges phrases; without it, words are compared"""
    judge_model: str | None = None
    raw_score: str | None = None
    """one of `RAW_SCORES`, to fit a calibration to"""
