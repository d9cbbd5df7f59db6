"""Calibration: one raw score of a target -> how good targets with such a score turned out to be.

The file of `--calibration` is a JSON object:

    {"of": "score_phrase",
     "points": [[0.31, 0.05], [0.72, 0.4], [0.93, 0.97]],
     "model_sha256": "9f86d081...",
     "notes": {"gold": "s3://gold/mugs", "date": "2026-11-24"}}

A point is a raw score and what it is worth. Between two points the curve is straight, and beyond
the last ones it is level. The last two keys may be left out: for which model the curve was fitted,
and whatever people want to know about it. Where an adapter was merged into the model, there is
`adapter_sha256`, too.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from operator import itemgetter
from re import fullmatch
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from pixellm.answers import Target
from workers.errors import LineError, SettingsError, StorageUnavailable
from workers.storage.stores import open_store
from workers.storage.uris import shown

RAW_SCORES = tuple(each.name for each in fields(Target) if each.name.startswith("score_"))
"""What may be calibrated: these fields of `Target`, which are columns of the label table, too."""
MOST_POINTS = 64
"""Of a fitted curve: a file that a person can still look through, some 3 KB."""
QUOTED_CHARS = 60
"""Of a value in a message."""
Point = tuple[float, float]
"""(raw, calibrated), both 0 to 1"""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A curve that never falls, from one raw score to `score`."""

    of: str
    """one of `RAW_SCORES`"""
    points: tuple[Point, ...]
    """at least one; raw scores rise from point to point, calibrated ones never fall"""
    model_sha256: str | None = None
    """digest of the model whose scores it was fitted to; None where nobody says"""
    notes: Mapping[str, str] = field(default_factory=dict)
    """for people: the gold table, the date"""
    adapter_sha256: str | None = None
    """digest of the adapter that was merged into the model; None where it was alone"""

    @classmethod
    def fit(
        cls,
        raw: ArrayLike,
        truth: ArrayLike,
        of: str = "score_mask",
        *,
        model_sha256: str | None = None,
        adapter_sha256: str | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> Self:
        """Fits the curve by isotonic regression: the rising one with the least squared error.

        Args:
            raw: (N,) scores of targets; those whose score is null are left out. What lies beyond
                0 and 1, as the guesses of an IoU head can, counts as 0 and 1.
            truth: (N,) how good each of them is, 0 to 1: its IoU with the true mask, or whether it
                is a hit. All count alike.
            of: which score `raw` is.
            model_sha256: digest of the model that made the targets.
            adapter_sha256: and of the adapter that was merged into it, if there was one.
            notes: where it all comes from.

        Raises:
            SettingsError: there are no targets.
        """
        raw, truth = np.asarray(raw, float).clip(0, 1), np.asarray(truth, float)
        assert raw.shape == truth.shape, "a truth for each score"
        assert np.isfinite(raw).all(), "scores that are null are left out"
        assert ((truth >= 0) & (truth <= 1)).all(), "a share, an IoU or a hit"
        if not raw.size:
            raise SettingsError(f"no target has a {of}: there is nothing to fit a calibration to")
        scores, owner, count = np.unique(raw, return_inverse=True, return_counts=True)
        fitted = isotonic_regression(np.bincount(owner, truth) / count, weights=count)
        corners = np.unique([fitted.blocks[:-1], fitted.blocks[1:] - 1])  # of its level parts
        curve = _thin(np.stack([scores[corners], fitted.x[corners].clip(0, 1)], axis=1))
        points = tuple((score, worth) for score, worth in curve.tolist())
        return cls(of, points, model_sha256, dict(notes or {}), adapter_sha256)

    def apply(self, raw: float) -> float:
        """The calibrated score, 0 to 1."""
        behind = bisect_right(self.points, raw, key=itemgetter(0))
        if behind in (0, len(self.points)):
            return self.points[min(behind, len(self.points) - 1)][1]
        (left, low), (right, high) = self.points[behind - 1 : behind + 1]
        return low + (high - low) * (raw - left) / (right - left)

    def fits(self, model_sha256: str, adapter_sha256: str | None) -> bool:
        """Whether it is for a model, with or without an adapter; one that names none is for all."""
        named = self.model_sha256, self.adapter_sha256
        return self.model_sha256 is None or named == (model_sha256, adapter_sha256)

    @property
    def sha256(self) -> str:
        """Digest of what `to_json` writes, 64 hex digits: that of the file, if nobody edited it."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """The file; the same values give the same bytes."""
        values = asdict(self)
        if self.adapter_sha256 is None:  # as files were before there were adapters: same digest
            del values["adapter_sha256"]
        return json.dumps(values, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, name: str) -> Self:
        """Reads what `to_json`, or a person, wrote.

        Args:
            data: content of the file.
            name: of the file, for messages.

        Raises:
            SettingsError: it is something else.
        """
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{name} is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise SettingsError(
                f'{name} must be a JSON object such as {{"of": "score_mask", "points":'
                f" [[0.2, 0.1], [0.9, 0.95]]}}, not {_typed(values)}"
            )
        known = [each.name for each in fields(cls)]
        if unknown := sorted(values.keys() - known):
            names = ", ".join(map(repr, known))
            raise SettingsError(f"{name}: unknown key {unknown[0]!r}; it may have {names}")
        return cls(
            _read_of(values.get("of"), name),
            _read_points(values.get("points"), name),
            _read_digest("model_sha256", values, name),
            _read_notes(values.get("notes"), name),
            _read_digest("adapter_sha256", values, name),
        )


def score_target(target: Target, calibration: Calibration | None) -> float:
    """The one score of a target, 0 to 1.

    The mask score stands in where there is no calibration, and where a target lacks the score that
    is calibrated.
    """
    raw: float | None = getattr(target, calibration.of) if calibration else None
    return target.score_mask if calibration is None or raw is None else calibration.apply(raw)


def read_calibration(uri: str) -> Calibration:
    """Reads the file of `--calibration`.

    Raises:
        SettingsError: it can't be read, or is no calibration.
        StorageUnavailable: its store does not answer.
    """
    name = f"--calibration {shown(uri)}"
    try:
        data = open_store(uri).get(uri)
    except StorageUnavailable:
        raise
    except LineError as error:
        raise SettingsError(f"{name} can't be read: {error}") from error
    return Calibration.from_json(data, name)


def _thin(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most `MOST_POINTS` of a curve's points.

    They are those on both sides of levels that lie evenly in its rise: whatever its form, it is
    moved by less than the distance of two levels.

    Args:
        curve: (points, 2)
    """
    if len(curve) <= MOST_POINTS:
        return curve
    rise = curve[:, 1]
    levels = np.linspace(rise[0], rise[-1], MOST_POINTS // 2)
    above, below = rise.searchsorted(levels), rise.searchsorted(levels, side="right") - 1
    return curve[np.unique([above, below])]


def _read_of(value: object, name: str) -> str:
    found = next((each for each in RAW_SCORES if each == value), None)
    if found is None:
        raise SettingsError(f"{name}: 'of' must be one of {RAW_SCORES!r}, not {_typed(value)}")
    return found


def _read_points(value: object, name: str) -> tuple[Point, ...]:
    if not isinstance(value, list) or not value:
        raise SettingsError(
            f"{name}: 'points' must be a list of pairs (raw, calibrated) such as"
            f" [[0.2, 0.1], [0.9, 0.95]], not {_typed(value)}"
        )
    points = [_read_point(each, number, name) for number, each in enumerate(value, start=1)]
    for number, (before, point) in enumerate(pairwise(points), start=2):
        if point[0] <= before[0] or point[1] < before[1]:
            raise SettingsError(
                f"{name}: point {number}, {_typed(point)}, can't follow {_typed(before)}: raw"
                " scores must rise from point to point, and calibrated ones must not fall"
            )
    return tuple(points)


def _read_point(value: object, number: int, name: str) -> Point:
    if isinstance(value, list) and len(value) == 2 and all(map(_is_share, value)):
        return float(value[0]), float(value[1])
    raise SettingsError(
        f"{name}: point {number} must be two numbers from 0 to 1 such as [0.2, 0.1],"
        f" not {_typed(value)}"
    )


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _read_digest(key: str, values: Mapping[str, object], name: str) -> str | None:
    value = values.get(key)
    if value is None or (isinstance(value, str) and fullmatch("[0-9a-f]{64}", value)):
        return value
    raise SettingsError(
        f"{name}: {key!r} must be 64 hex digits, as in the label table, or be left out, not"
        f" {_typed(value)}"
    )


def _read_notes(value: object, name: str) -> Mapping[str, str]:
    notes = {} if value is None else value
    if isinstance(notes, dict) and all(isinstance(each, str) for each in notes.values()):
        return notes
    raise SettingsError(
        f"{name}: 'notes' must be an object of texts such as"
        f' {{"date": "2026-11-24"}}, not {_typed(value)}'
    )


def _typed(value: object) -> str:
    """As it stands in the file; the beginning, if it is long."""
    text = json.dumps(value)
    return text if len(text) <= QUOTED_CHARS else f"{text[:QUOTED_CHARS]}..."
