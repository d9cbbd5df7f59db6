"""What became of a training run: training.json, which lies beside what was learned, for machines.

A model that was trained from another one has its line of descent in there, the nearest first: the
base's own, as the base's training.json tells it.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixellm.config_values import read_json
from pixellm.errors import ConfigError
from workers.errors import SettingsError
from workers.storage.uris import redact
from workers.training.evaluation import Graded

if TYPE_CHECKING:  # a labelling run reads records, and can do without PEFT, which takes seconds
    from workers.training.plan import TrainPlan

RECORD_FILE = "training.json"
"""Of the folder of a model or an adapter."""
MOST_ANCESTORS = 32
"""That are told of; a model that was tuned nightly for years has more."""
MOST_CHARS = 1_000
"""Of a text in the base's record: others may have written it."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A model that was trained on."""

    model: str
    """folder, or place in a bucket"""
    sha256: str
    """digest of its files, 64 hex digits"""
    data: tuple[str, ...] = ()
    """label tables that it had been trained on, if its folder said so"""
    finished_at: str = ""
    """when its training was finished, if its folder said so"""


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What became of a training run."""

    plan: "TrainPlan"
    lineage: tuple[Ancestor, ...]
    """the model that learned, and those that it descends from"""
    steps: int
    """that were made"""
    examples: int
    """that were learned from; one that came by in two epochs counts twice"""
    passed_over: Mapping[str, int]
    """rows and pictures that were not, by reason, as the first worker has counted them"""
    runs: tuple[tuple[str, ...], ...]
    """of each data set, which runs of its table were read"""
    losses: Mapping[str, float]
    """weighted parts, means over the last `loss_steps`"""
    loss_steps: int
    graded: Graded | None
    """scores on images that were not learned from, if any were taken"""
    finished_at: str
    code_version: str

    def to_json(self) -> str:
        """The file."""
        base = self.lineage[0]
        values = asdict(self) | {"trained_from": base.model, "trained_from_sha256": base.sha256}
        del values["graded"]
        values["scores"] = {"step": self.graded.step, **self.graded.scores} if self.graded else {}
        return redact(json.dumps(values, indent=2, sort_keys=True)) + "\n"


def trace_lineage(model: str, sha256: str, folder: Path | None) -> tuple[Ancestor, ...]:
    """A model and those that it descends from.

    Args:
        model: what it is called.
        sha256: digest of its files.
        folder: where it lies on this machine; None where that isn't known.
    """
    values: Mapping[str, Any] = {}
    with suppress(ConfigError):  # it tells nothing, or nobody can read it: no reason to stop
        values = read_json(folder / RECORD_FILE) if folder else {}
    own = Ancestor(model, sha256, _data_of(values), _text(values.get("finished_at")))
    return own, *_ancestors_of(values)[: MOST_ANCESTORS - 1]


def read_trained_from(folder: Path) -> str | None:
    """The digest of the model that an adapter was trained from; None where there is no record.

    Raises:
        SettingsError: the record can't be read, or doesn't tell.
    """
    file = folder / RECORD_FILE
    if not file.is_file():
        return None
    try:
        digest = read_json(file).get("trained_from_sha256")
    except ConfigError as error:
        raise SettingsError(f"{error}; was the adapter copied whole?") from error
    if not isinstance(digest, str) or not digest:
        raise SettingsError(
            f"{str(file)!r} does not tell trained_from_sha256, the model that the adapter was"
            " trained from; without that file, only the shapes of its weights are looked at"
        )
    return digest


def _data_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    plan = values.get("plan")
    data = plan.get("data") if isinstance(plan, dict) else None
    sets = data if isinstance(data, list) else []
    return tuple(_text(each.get("prefix")) for each in sets if isinstance(each, dict))


def _ancestors_of(values: Mapping[str, Any]) -> list[Ancestor]:
    """As the record of the base tells them, or as much of it as makes sense."""
    told = values.get("lineage")
    if not isinstance(told, list):  # a record of an earlier version
        told = [{"model": values.get("trained_from"), "sha256": values.get("trained_from_sha256")}]
    return [
        Ancestor(
            _text(each["model"]),
            _text(each.get("sha256")),
            tuple(map(_text, each["data"])) if isinstance(each.get("data"), list) else (),
            _text(each.get("finished_at")),
        )
        for each in told
        if isinstance(each, dict) and isinstance(each.get("model"), str)
    ]


def _text(value: object) -> str:
    return value[:MOST_CHARS] if isinstance(value, str) else ""
