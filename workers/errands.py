"""What a replica is told: of each run once, and then of one shard after the other."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from workers.earlier import EarlierIndex
from workers.labels.commits import Guarantee
from workers.model_files import ModelIdentity
from workers.settings import LabelSettings
from workers.shards.kinds import ShardKind
from workers.shards.plan import Shard
from workers.summaries import ShardKey

ShardBatch = dict[str, Sequence[str]]
"""A batch of Ray Data: column -> values; ours has one row and one column of JSON."""
ERRAND, SUMMARY = "errand", "summary"
"""The column of what a replica is given, and that of what it gives back."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a replica must know of a run; travels to it once."""

    settings: LabelSettings
    """with GPUs and precision settled"""
    identity: ModelIdentity
    run_id: str
    guarantee: Guarantee
    earlier: EarlierIndex


@dataclass(frozen=True, slots=True)
class Errand:
    """A shard to be labelled, and the run that it is a part of."""

    run_id: str
    shard: Shard

    @property
    def key(self) -> ShardKey:
        """By which it is known, among all errands."""
        return self.run_id, self.shard.shard_id

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"run_id": self.run_id, "shard": asdict(self.shard)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote."""
        values = json.loads(text)
        shard = values["shard"]
        return cls(values["run_id"], Shard(**{**shard, "kind": ShardKind(shard["kind"])}))


def assigned(errands: Sequence[Errand], assignments: Sequence[Assignment]) -> list[Errand]:
    """Those of runs that replicas know; of a run whose lists could not be stored, they don't."""
    known = {each.run_id for each in assignments}
    return [each for each in errands if each.run_id in known]
