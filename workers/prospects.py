"""Whether what is left of some runs may still be labelled, by what became of the shards so far."""

from collections.abc import Set

from workers.summaries import ShardSummary

FAILED_IN_A_ROW = 20
"""Shards that fail with none committed in between: the store is down, and it isn't about them."""


class Prospects:
    """Hears of shards that failed; what those of one run fail on may be its own affair."""

    def __init__(self) -> None:
        self._ended, self._failed = set[str](), list[str]()

    def are_gone_after(self, summary: ShardSummary, left: Set[str]) -> bool:
        """Takes in what became of a shard; whether all others would fail like it.

        So it is when every run that has shards left has said so of itself, or when so many shards
        failed in a row, and of more than one run where there are several.

        Args:
            summary: of the shard.
            left: ids of runs that have others left.
        """
        if summary.ends_run:
            self._ended.add(summary.run_id)
        elif summary.run_id not in self._ended:
            self._failed = [*self._failed, summary.run_id] if summary.error else []
        going = left - self._ended
        of_many = len(set(self._failed)) >= min(2, len(going))
        in_a_row = len(self._failed) >= FAILED_IN_A_ROW and of_many
        return bool(left) and (in_a_row or not going)
