"""What the processes of a watched job note, each in a file of its own.

The notes lie in the output, where a folder whose name begins with "_" is in nobody's way.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NOTES, DRIVER = "_watched", "driver.json"
"""A folder of the output, and in it the notes of the driver; the others are of replicas."""


@dataclass(frozen=True, slots=True)
class ReplicaNotes:
    """How the process of a model has spent its time so far; moments are seconds since 1970."""

    ready: float
    """when the model could be asked"""
    questions: int
    first: float
    """when the first one came"""
    last: float
    """when the last answer was there"""
    model_seconds: float
    """that its thread has spent in the model"""
    model_cpu: float
    """of these, on a processor"""
    all_cpu: float
    """of the whole process since it was ready"""


@dataclass(frozen=True, slots=True)
class DriverNotes:
    """What the driver has seen."""

    code: int
    """that the job ended with"""
    peak_bytes: int
    """most memory that its process had at any time (resident)"""


def write_notes(path: Path, values: Mapping[str, object]) -> None:
    """Writes notes into a file, at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(values), encoding="utf-8")
    aside.replace(path)
