"""What a replica is told as it is made: of each run, and of all shards that are to be labelled."""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.earlier import EarlierIndex
from workers.labels.commits import Guarantee
from workers.model_files import ModelIdentity
from workers.packed import Packed
from workers.settings import LabelSettings
from workers.shards.plan import Shard
from workers.summaries import ShardKey


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


def assigned(errands: Sequence[Errand], assignments: Sequence[Assignment]) -> Sequence[Errand]:
    """Those of runs that replicas know; of a run whose lists could not be stored, they don't."""
    known = {each.run_id for each in assignments}
    if all(each.run_id in known for each in errands):
        return errands  # there may be many: they aren't kept twice
    return Packed(each for each in errands if each.run_id in known)
