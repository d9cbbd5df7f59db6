"""The training loop: batches in, weights changed; the same for every model and every stage.

A step is some batches whose gradients are added up. What a step does is decided by the weights, its
batches and its number alone (random numbers are drawn anew for each batch, from the seed, the step
and the worker), so that a run that goes on from a saved state ends like one that was not disturbed.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pixellm.errors import TrainingDiverged
from pixellm.peers import Alone, Peers

Batch = TypeVar("Batch")
RateShape = Literal["linear", "cosine"]
"""How a learning rate falls."""

REMEMBERED = 50
"""Steps whose losses a new one is compared with."""
EXPLODED = 20.0
"""Times their median: a loss that is larger comes of no hard batch."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast something learns. The defaults are the paper's (spec, section 8)."""

    steps: int = 5_000
    rate: float = 3e-4
    """highest learning rate"""
    warm_up: int = 100
    """steps in which it rises from 0"""
    shape: RateShape = "linear"
    """how it falls from then on"""
    floor: float = 0.0
    """to which share of the highest one"""
    betas: tuple[float, float] = (0.9, 0.95)
    decay: float = 0.0
    """AdamW's weight decay"""
    clip: float = 1.0
    """largest norm of a gradient"""
    average: float = 0.0
    """share of the old value in the running average of the weights, per step; 0: no average"""
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ..."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = min(1.0, (step - self.warm_up) / max(1, self.steps - self.warm_up))
        left = 1 - done if self.shape == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.rate * (self.floor + (1 - self.floor) * left)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What came of a step."""

    step: int
    """how many there have been, this one included"""
    losses: Mapping[str, float]
    """weighted parts, means over its batches and over all workers"""
    total: float
    rate: float
    gradient: float
    """norm, before it was clipped"""


class Loop(Generic[Batch]):
    """Weights, their optimiser, and how far they are.

    Args:
        learner: called with a batch, gives the weighted parts of its loss as scalars.
        trained: the weights that learn, by the names under which their state is kept.
        schedule: how fast.
        peers: who learns with it.
        precision: a context in which losses are computed.
    """

    def __init__(
        self,
        learner: nn.Module,
        trained: Mapping[str, nn.Parameter],
        schedule: Schedule,
        peers: Peers | None = None,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.learner, self.trained, self.schedule = learner, dict(trained), schedule
        self.peers: Peers = peers or Alone()
        self.step = 0
        self._precision = precision
        self._optimiser = torch.optim.AdamW(
            self.trained.values(), lr=0.0, betas=schedule.betas, weight_decay=schedule.decay
        )
        self._recent: deque[float] = deque(maxlen=REMEMBERED)
        self.average = {name: weight.detach().clone() for name, weight in self._averaged()}

    @property
    def done(self) -> bool:
        """Whether the last step has been made."""
        return self.step >= self.schedule.steps

    def learn(self, batches: Sequence[Batch]) -> StepReport:
        """One step.

        Args:
            batches: of this worker, at least one; all workers have as many.

        Raises:
            TrainingDiverged: a loss is no number, or far from those before; the weights are as
                before the step.
        """
        rate = self.schedule.rate_at(self.step)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad(set_to_none=True)
        own, totals = self._add_up(batches)
        shared = dict(
            zip(own, self.peers.mean(torch.stack(list(own.values()))).tolist(), strict=True)
        )
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self.schedule.clip)
        gradient = float(self.peers.whole(norm))
        report = StepReport(self.step + 1, shared, sum(shared.values()), rate, gradient)
        self._check(report, totals)
        self._optimiser.step()
        self._follow()
        self._recent.append(report.total)
        self.step += 1
        return report

    def _add_up(self, batches: Sequence[Batch]) -> tuple[dict[str, Tensor], list[float]]:
        """Gradients of all batches; returns the parts of their loss, and the loss of each."""
        sums: dict[str, Tensor] = {}
        totals: list[float] = []
        for number, batch in enumerate(batches):
            self._draw_anew(number)
            last = number == len(batches) - 1
            with nullcontext() if last else self.peers.apart(self.learner):
                with self._precision():
                    parts: Mapping[str, Tensor] = self.learner(batch)
                total = torch.stack([each.float() for each in parts.values()]).sum()
                # not looked at yet: the others wait for this worker's gradients
                totals.append(float(total.detach()))
                (total / len(batches)).backward()
            for name, each in parts.items():
                share = each.detach().float() / len(batches)
                sums[name] = sums[name] + share if name in sums else share
        return sums, totals

    def _draw_anew(self, number: int) -> None:
        """Random numbers of a batch: the same whatever was drawn before."""
        place = (self.schedule.seed, self.step, number, self.peers.rank)
        seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0])
        torch.manual_seed(seed & (2**63 - 1))

    def _check(self, report: StepReport, totals: Sequence[float]) -> None:
        usual = median(self._recent) if len(self._recent) == REMEMBERED else math.inf
        if not (math.isfinite(report.total) and math.isfinite(report.gradient)):
            what = "is no number" if not math.isfinite(report.total) else "has no finite gradient"
        elif report.total > EXPLODED * usual:
            what = f"is {report.total:.3g}, and was {usual:.3g} in the {REMEMBERED} steps before"
        else:
            return
        self._optimiser.zero_grad(set_to_none=True)
        losses = ", ".join(f"{name} {value:.4g}" for name, value in report.losses.items())
        # where the mean is too large one of them is, be it another worker's
        most = EXPLODED * usual
        bad = (at for at, each in enumerate(totals) if not math.isfinite(each) or each > most)
        raise TrainingDiverged(
            f"the loss of step {report.step} {what} ({losses}; rate {report.rate:.3g}): lower the"
            " learning rate, or correct the batch, and begin anew in another output: to go on is to"
            " meet it again",
            batch=next(bad, None),
        )

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the average after the weights; fast at first, while they are far from the end."""
        keep = min(self.schedule.average, (self.step + 1) / (self.step + 10))
        for name, weight in self._averaged():
            self.average[name].lerp_(weight, 1 - keep)

    def _averaged(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.trained.items()) if self.schedule.average else []

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the weights are their average, if there is one."""
        own = {name: weight.detach().clone() for name, weight in self._averaged()}
        self._set(self.average)
        try:
            yield
        finally:
            self._set(own)

    def take_average(self) -> None:
        """From now on the weights are their average, if there is one; nothing is learned behind it.

        Nobody could go on from there: a state must have been kept before.
        """
        self._set(self.average)

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.trained[name].copy_(value)

    # ---- state ----

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step needs of those before: tensors, and what goes into JSON.

        All workers must ask; each gets everything.
        """
        tensors = {f"weights.{name}": weight.detach() for name, weight in self.trained.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for name, weight in self.trained.items():
            for kind, value in self._optimiser.state.get(weight, {}).items():
                tensors[f"{kind}.{name}"] = value
        whole = {name: self.peers.whole(tensor) for name, tensor in tensors.items()}
        return whole, {"step": self.step, "recent": list(self._recent)}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Goes on from where `state` was taken.

        Raises:
            KeyError: it is the state of other weights.
        """
        for name, weight in self.trained.items():
            weight.copy_(self.peers.part_of(tensors[f"weights.{name}"], weight))
        for name, value in self.average.items():
            value.copy_(self.peers.part_of(tensors[f"average.{name}"], value))
        self.step, recent = int(rest["step"]), rest["recent"]
        self._recent.clear()
        self._recent.extend(map(float, recent))
        self._optimiser.state.clear()
        for name, weight in self.trained.items():
            if f"exp_avg.{name}" in tensors:  # others never had a gradient
                # how many steps there were is kept on the host
                own = {"step": tensors[f"step.{name}"].clone()}
                for kind in ("exp_avg", "exp_avg_sq"):
                    value = tensors[f"{kind}.{name}"].to(weight.device, copy=True)
                    own[kind] = self.peers.part_of(value, weight)
                self._optimiser.state[weight] = own
