"""What a table must reach: `giou=0.5` as it is typed, and what is missed."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from workers.errors import SettingsError
from workers.scoring.metrics import METRICS, Scores

ROUNDING = 1e-9
"""Of a metric: pycocotools gives a perfect table an AP of 0.9999999999999998."""
_FORM = re.compile(r"\s*(\w+)\s*=\s*(0|1|0?\.\d+|[01]\.\d*)\s*")


@dataclass(frozen=True, slots=True)
class Minimum:
    """The least that one metric must be, over all questions."""

    name: str
    least: float

    def __str__(self) -> str:
        return f"{self.name}={self.least:.15f}".rstrip("0").rstrip(".")


def read_minimum(text: str) -> Minimum:
    """Reads one value of `--min`.

    Raises:
        SettingsError: it is something else, or names no metric.
    """
    found = _FORM.fullmatch(text)
    if not found or float(found[2]) > 1:
        raise SettingsError(f"{text!r} is no minimum such as giou=0.5, with a number from 0 to 1")
    if found[1] not in METRICS:
        raise SettingsError(f"{found[1]!r} is no metric; there are {', '.join(METRICS)}")
    return Minimum(found[1], float(found[2]))


def find_missed(scores: Scores, minimums: Iterable[Minimum]) -> list[str]:
    """What is below its minimum, a sentence each; what could not be measured is missed, too."""
    missed = []
    for each in minimums:
        value, due = scores[each.name], f"must be {each.least:.15g} or more"
        if value is None:
            missed.append(f"{each.name} can't be measured here, and {due}")
        elif not value >= each.least - ROUNDING:  # what is no number is missed, too
            missed.append(f"{each.name} is {value:.4f}, and {due}")
    return missed
