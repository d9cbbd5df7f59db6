"""What rows hold, in numbers: of a part and its commit, of a finished run, of a shard just done."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Over some rows; without values, over none."""

    rows: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    """rows by status"""
    errors: Mapping[str, int] = field(default_factory=dict)
    """rows by `error_code`, of those that have one"""
    targets: int = 0
