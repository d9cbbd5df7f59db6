"""How far a training run is, apart from its weights: what a state of it says in JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from workers.errors import SettingsError
from workers.training.evaluation import Graded
from workers.training.feed import FeedPosition


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run has done, and where it goes on."""

    plan: str
    """`TrainPlan.digest`: whoever goes on must have the same"""
    model: str
    """SHA-256 of the weights that it began with"""
    loop: Mapping[str, Any]
    """what `Loop.state` gave, for `Loop.restore`"""
    data: FeedPosition
    passed_over: Mapping[str, int]
    """rows that can't be learned from, by reason"""
    evaluations: tuple[Graded, ...] = ()
    """what was scored, in the order of the steps"""
    validation: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """prefix -> the runs that its held-out rows are read from"""

    @property
    def step(self) -> int:
        """Optimiser steps that are made."""
        return int(self.loop["step"])

    def to_json(self) -> dict[str, Any]:
        """For a state's `rest`; a run that scores nothing has no word of it."""
        scored = {
            "evaluations": [[each.step, dict(each.scores)] for each in self.evaluations],
            "validation": {prefix: list(runs) for prefix, runs in self.validation.items()},
        }
        return {
            "plan": self.plan,
            "model": self.model,
            "loop": dict(self.loop),
            "data": self.data.to_json(),
            "passed_over": dict(self.passed_over),
            **{name: value for name, value in scored.items() if value},
        }

    @classmethod
    def from_json(cls, rest: Mapping[str, Any]) -> Self:
        """Reads what `to_json` gave.

        Raises:
            SettingsError: it is something else.
        """
        try:
            return cls(
                plan=rest["plan"],
                model=rest["model"],
                loop=rest["loop"],
                data=FeedPosition.from_json(rest["data"]),
                passed_over=rest["passed_over"],
                evaluations=tuple(Graded(*each) for each in rest.get("evaluations", ())),
                validation=_read_runs(rest.get("validation", {})),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SettingsError(
                f"a state can't be read ({error!r}): it is damaged, or of another version of this"
                " program. Go on with the version that wrote it, or give another --output"
            ) from error


def _read_runs(found: Mapping[str, Sequence[str]]) -> Mapping[str, tuple[str, ...]]:
    return {prefix: tuple(runs) for prefix, runs in found.items()}
