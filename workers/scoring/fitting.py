"""The predictions of an evaluation -> a calibration: what a raw score is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from workers.labels.calibration import RAW_SCORES, Calibration
from workers.scoring.measures import Question

Model = tuple[str, str | None]
"""SHA-256 of a model, and of its adapter if it had one"""


@dataclass(frozen=True, slots=True)
class RawScores:
    """N predictions that have the score, and whether each of them is right."""

    raw: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """(N,)"""
    hits: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))
    """(N,) whether it finds a target: the IoU of its pair is above `workers.scoring.pairs.HIT`"""
    models: frozenset[Model] = frozenset()
    """that made them"""

    @classmethod
    def total(cls, parts: Sequence["RawScores"]) -> "RawScores":
        """Those of all the parts."""
        parts = [cls(), *parts]
        return cls(
            np.concatenate([part.raw for part in parts]),
            np.concatenate([part.hits for part in parts]),
            frozenset[Model]().union(*(part.models for part in parts)),
        )


def take_raw(questions: Sequence[Question], name: str) -> RawScores:
    """The scores of that name of all predictions that have one."""
    number = RAW_SCORES.index(name)
    found, models = list[tuple[float, bool]](), set[Model]()
    for question in questions:
        hits = {pair.prediction for pair in question.pairs if pair.is_hit}
        for place, mask in enumerate(question.predictions):
            raw = mask.target.raw[number]
            if raw is not None and question.said is not None:
                found.append((raw, place in hits))
                models.add((question.said.model_sha256, question.said.adapter_sha256))
    raw_scores = np.array([raw for raw, _ in found], np.float32)
    return RawScores(raw_scores, np.array([hit for _, hit in found], bool), frozenset(models))


def fit_calibration(found: RawScores, name: str, notes: Mapping[str, str]) -> Calibration:
    """Fits the curve; it names the model, if all predictions come from one.

    Args:
        found: from an evaluation with `raw_score`.
        name: of the score.
        notes: for people.

    Raises:
        SettingsError: no prediction has that score.
    """
    one = found.models if len(found.models) == 1 else {(None, None)}
    ((model, adapter),) = one
    counted = {**notes, "targets": f"{len(found.raw):,}", "right": f"{int(found.hits.sum()):,}"}
    return Calibration.fit(
        found.raw, found.hits, name, model_sha256=model, adapter_sha256=adapter, notes=counted
    )
