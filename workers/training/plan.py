"""What a training run does; the same on each of its workers."""

import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Literal

from pixellm.learners import Tuning
from pixellm.loop import Schedule
from pixellm.losses import LossWeights
from workers.training.evaluation import Choice
from workers.training.examples import TrainOn
from workers.training.ordering import Order
from workers.training.parallel import ParallelKind
from workers.training.views import Views

Precision = Literal["fp32", "bf16"]
Result = Literal["merged", "adapter"]
"""A whole model, or what was learned beside it."""
PAPER_LOSSES = LossWeights(refinement=2.0)
"""The paper has the target refinement loss, the released code hasn't (spec, section 7)."""

NOT_DECISIVE = (
    *("output", "save_every", "parallel", "recompute"),
    "model",  # by its name; states know its digest
    "result",  # the same weights in another form
    *("per_worker", "accumulate"),  # a feed minds their product with the number of workers
    # what is looked at and kept of it
    *("evaluate_every", "evaluate_rows", "validation", "best", "tensorboard"),
)
"""Of a plan, what may change before a run goes on: the same is learned."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A label table to learn from."""

    prefix: str
    weight: float = 1.0
    """examples come from the data sets in the proportion of their weights"""


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """All that decides what is learned, and how often it is looked at."""

    model: str
    """folder of the model that learns"""
    data: tuple[DataSet, ...]
    output: str
    """of states, metrics and the result"""
    schedule: Schedule = field(default_factory=Schedule)
    tuning: Tuning = field(default_factory=Tuning)
    losses: LossWeights = PAPER_LOSSES
    train_on: TrainOn = field(default_factory=TrainOn)
    views: Views = field(default_factory=Views)
    order: Order = "left-to-right"
    """of masks that no word of their answer tells apart"""
    per_worker: int = 2
    """examples of a batch"""
    accumulate: int = 10
    """batches of each worker that make up a step"""
    held_out: float = 0.2
    """share of the images that is not learned from, by a hash of each; 0: all are"""
    precision: Precision = "fp32"
    parallel: ParallelKind = "ddp"
    recompute: bool = False
    """compute a layer of the language model again for its gradients: less memory, more time"""
    save_every: int = 500
    """steps between two states"""
    evaluate_every: int = 500
    """steps between two evaluations; 0: there are none"""
    evaluate_rows: int = 200
    """that are asked at each"""
    validation: tuple[str, ...] = ()
    """label tables to be scored on; without any, the held-out images of `data`"""
    best: Choice = "giou"
    """the score by which the weights of the result are chosen"""
    tensorboard: str | None = None
    """folder for TensorBoard's files"""
    result: Result = "merged"

    @property
    def result_folder(self) -> str:
        """Of the output."""
        return "model" if self.result == "merged" else "adapter"

    @property
    def digest(self) -> str:
        """Of all that decides what is learned: a state of another digest is of another run."""
        decides = asdict(self)
        for name in NOT_DECISIVE:
            del decides[name]
        return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
