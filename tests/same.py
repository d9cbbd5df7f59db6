"""Whether two tables say the same."""

from collections.abc import Iterable
from dataclasses import fields, replace

import pytest

from workers.labels.rle import decode_mask
from workers.labels.schema import LabelRow, TargetRow

PASSING = ("run_id", "shard_id", "created_at", "latency_ms", "attempts")
"""Columns that say which try a row comes from, not what it says."""
SCORES = ("score", "score_mask", "score_iou", "score_token", "score_phrase")
MEASURED = ("bbox", "area", "rle_counts", "n_components", "touches_border", "max_iou_other")
EDGE = 1e-3
"""Of a mask's pixels: those whose logit is 0 but for what is lost in rounding, which depends on
what else the model has under way."""


def assert_same_rows(rows: Iterable[LabelRow], others: Iterable[LabelRow]) -> None:
    """Row by row the same, but for which try it was, and what rounding does to a mask's edge."""
    for row, other in zip(rows, others, strict=True):
        for field in fields(LabelRow):
            if field.name not in (*PASSING, "targets"):
                assert getattr(row, field.name) == getattr(other, field.name), field.name
        for target, same in zip(row.targets, other.targets, strict=True):
            _assert_same_target(target, same)


def _assert_same_target(target: TargetRow, other: TargetRow) -> None:
    loose = dict.fromkeys(SCORES + MEASURED)
    assert replace(target, **loose) == replace(other, **loose)
    for name in SCORES:
        assert getattr(target, name) == pytest.approx(getattr(other, name), abs=EDGE), name
    mask, same = (decode_mask(each.rle_size, each.rle_counts) for each in (target, other))
    assert (mask != same).mean() <= EDGE
