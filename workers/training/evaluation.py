"""What came out when a model was scored in the middle of its training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from workers.scoring.metrics import METRICS, Scores

Choice = Literal["giou", "ciou", "giou_union", "f1", "exact", "loss", "last"]
"""By what the best weights are chosen; `last`: by nothing, the last ones count."""
LOSS = "loss"
"""Of the rows that are scored, weighted as in training; the only number of which less is better."""
REPORTED = (
    *("giou", "ciou", "giou_union", "ciou_union", "precision", "recall", "f1", "ap"),
    *("exact", "nothing_accuracy", "something_accuracy", "answered"),
)
"""What is kept of `METRICS`."""
TOLD = ("giou", "ciou", "exact", "precision", "recall", "nothing_accuracy")
"""What the line about an evaluation says."""


@dataclass(frozen=True, slots=True)
class Graded:
    """The scores of one step, by the names of `REPORTED` and `LOSS`: what could be measured."""

    step: int
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of the weights after some step."""

    step: int
    scores: Mapping[str, float]
    questions: int
    seconds: float
    choice: Choice
    best: Graded | None = None
    """of all so far, this one among them"""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """rows that could not be asked this time, by reason: their pictures can't be had"""

    def __str__(self) -> str:
        """The line for the user."""
        said = ", ".join(
            f"{title(name)} {self.scores[name]:.3f}"
            for name in (*TOLD, LOSS)
            if name in self.scores
        )
        line = f"step {self.step:,} scored on {self.questions:,} questions in {self.seconds:.0f} s"
        gone = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))
        return (
            f"{line}: {said or 'nothing could be measured'}; {describe_best(self)}"
            f"{f'; left out: {gone}' if gone else ''}"
        )


def take_reported(scores: Scores, loss: float | None) -> dict[str, float]:
    """What is kept of the scores of all questions, and the loss; without what is not measured."""
    found = {name: scores[name] for name in REPORTED} | {LOSS: loss}
    return {name: round(value, 6) for name, value in found.items() if value is not None}


def is_better(scores: Mapping[str, float], best: Graded | None, choice: Choice) -> bool:
    """Whether these are better than the best so far; of equal ones, more was learned later."""
    if choice not in scores:  # it can't be measured; or the last ones count
        return False
    if best is None:
        return True
    new, old = scores[choice], best.scores[choice]
    return new <= old if choice == LOSS else new >= old


def title(name: str) -> str:
    """What a score is called."""
    return METRICS[name].title if name in METRICS else name


def describe_best(seen: Evaluation) -> str:
    """Which weights are the best so far."""
    if seen.choice == "last":
        return "the last ones will be the result"
    if seen.best is None:
        return f"no {title(seen.choice)} could be measured yet"
    if seen.best.step == seen.step:
        return f"the best {title(seen.choice)} so far"
    score = seen.best.scores[seen.choice]
    return f"best {title(seen.choice)} so far {score:.3f}, at step {seen.best.step:,}"
