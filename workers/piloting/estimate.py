"""What a run will take, worked out from its pilot; kept in the output for the run's end.

OUTPUT/_plans/<run>.estimate.json
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from workers.errors import ObjectMissing
from workers.piloting.rates import CONFIDENCE, Range
from workers.runs import PLANS
from workers.shards.plan import Shard
from workers.storage.objects import Store
from workers.storage.uris import join_uri
from workers.summaries import RunSummary
from workers.wording import counted, duration


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take."""

    run_id: str
    records: Range
    """in all of the input"""
    left: Range
    """of these, not labelled yet"""
    rate: Range
    """records per second of one replica"""
    start_seconds: float
    """until a replica is ready"""
    replicas: int
    gpus: float
    """of each"""
    cpus: int
    """likewise; 0 where nobody said how many"""

    @property
    def labelling_hours(self) -> Range:
        """For what is left, by all replicas together, from when they are ready."""
        return self.left.over(self.rate).scaled(1 / self.replicas / 3600)

    @property
    def start_hours(self) -> float:
        """Until they are ready; where nothing is left, none is started."""
        return self.start_seconds / 3600 if self.left.high else 0.0

    @property
    def hours(self) -> Range:
        """The start and the labelling."""
        return self.labelling_hours.plus(self.start_hours)

    def save(self, store: Store, output: str) -> None:
        """Keeps it for the end of the run."""
        store.put(_uri(output, self.run_id), json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, store: Store, output: str, run_id: str) -> Self | None:
        """What was kept; None where no pilot was made."""
        try:
            values = json.loads(store.get(_uri(output, run_id)))
            ranges = {name: Range(**values[name]) for name in ("records", "left", "rate")}
            return cls(**{**values, **ranges})
        except (ObjectMissing, ValueError, TypeError, KeyError):  # or of another version
            return None


def count_records(shards: Sequence[Shard], counted: Sequence[tuple[Shard, int]]) -> Range:
    """How many records shards hold: what the plan knows, and the others by their bytes.

    Args:
        shards: of a plan.
        counted: shards that were read, with their records.
    """
    known = sum(shard.count for shard in shards if shard.count >= 0)
    unknown = sum(shard.size for shard in shards if shard.count < 0)
    if not unknown:
        return Range.exactly(known)
    by_byte = [records / shard.size for shard, records in counted if shard.count < 0 and shard.size]
    if not by_byte:
        return Range(known, math.nan, math.inf)
    return Range.of_mean(by_byte).scaled(unknown).plus(known)


def describe_estimate(estimate: Estimate, gpu_price: float | None, cpu_price: float | None) -> str:
    """The table that is printed."""
    hours, rate = estimate.hours, estimate.rate
    gpu_hours = hours.scaled(estimate.replicas * estimate.gpus)
    cpu_hours = hours.scaled(estimate.replicas * estimate.cpus)
    lines = [
        f"records    {_shown(estimate.records, 0)}, {_shown(estimate.left, 0)} of them left",
        f"rate       {_shown(rate, 2)} records/s of one replica",
        f"replicas   {estimate.replicas}",
        f"start      {duration(3600 * estimate.start_hours)}, until a replica is ready",
        f"labelling  {_between(estimate.labelling_hours)}",
        f"time left  {_between(hours)}, start and labelling",
        *([f"GPU hours  {_shown(gpu_hours, 2)}"] if estimate.gpus else []),
        *([f"CPU hours  {_shown(cpu_hours, 2)}"] if estimate.cpus else []),
    ]
    price = estimate.gpus * (gpu_price or 0.0) + estimate.cpus * (cpu_price or 0.0)
    if price:
        lines.append(f"money      {_shown(hours.scaled(estimate.replicas * price), 2)}")
    elif gpu_price is not None and not estimate.gpus:
        lines.append("money      none for GPUs: the replicas have none; --price-per-cpu-hour")
    lines.append(
        f"           in brackets: {CONFIDENCE:.0%} intervals, from the pilot's ups and downs"
    )
    return "\n".join(lines)


def compare(estimate: Estimate, summary: RunSummary) -> str:
    """A line on how a run went beside what its pilot said; empty where it labelled nothing."""
    if not summary.records or not summary.replicas or not summary.records_per_second:
        return ""
    own = summary.records_per_second / summary.replicas
    said = estimate.rate
    where = "as the pilot said" if said.low <= own <= said.high else "not as the pilot said"
    took = summary.records / summary.records_per_second
    seconds = Range.exactly(summary.records).over(said).scaled(1 / summary.replicas)
    hours = _between(seconds.scaled(1 / 3600))
    lines = [
        f"{own:,.2f} records/s of one replica, {where}: {_shown(said, 2)}",
        f"labelling {counted(summary.records, 'record')} took {duration(took)} from when a replica"
        f" was ready; planned: {hours}",
    ]
    if gpus := summary.replicas * estimate.gpus:
        planned = _shown(seconds.scaled(gpus / 3600), 2)
        lines.append(f"{took * gpus / 3600:,.2f} GPU hours of it; planned: {planned}")
    return "; ".join(lines)


def _shown(number: Range, digits: int) -> str:
    if math.isnan(number.middle):  # of files that nobody has counted, none was in the pilot
        return f"at least {_number(number.low, digits)}"
    low, middle, high = (_number(each, digits) for each in (number.low, number.middle, number.high))
    if number.low == number.high:
        return middle
    if math.isinf(number.high):
        return f"{middle} ({low} or more: how many is not known)"
    return f"{middle} ({low} to {high})"


def _number(value: float, digits: int) -> str:
    least = 10**-digits
    if digits and 0 < value < least:  # 0.00 would be nothing
        return f"below {least:.{digits}f}"
    return f"{value:,.{digits}f}"


def _between(hours: Range) -> str:
    low, middle, high = (
        duration(3600 * each) if math.isfinite(each) else "nobody knows how long"
        for each in (hours.low, hours.middle, hours.high)
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def _uri(output: str, run_id: str) -> str:
    return join_uri(output, PLANS, f"{run_id}.estimate.json")
