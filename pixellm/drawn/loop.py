"""The training loop that all stages share: steps, schedule, averaged weights, log, resume."""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Parts = TypeVar("Parts", bound=nn.Module)

SAVE_EVERY = 250
"""Steps between two resumable states: one or two minutes of work on a CPU core."""
WARM_UP = 100
"""Steps of linear warm-up; without it the first steps at full rate undo the initialisation."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast one stage learns."""

    steps: int
    rate: float
    """Peak learning rate; warm-up, then cosine to a fiftieth of it."""
    decay: float = 0.05
    """AdamW weight decay."""
    average: float = 0.998
    """Share of the old value in the running average of the weights, per step."""


def rate_at(step: int, schedule: Schedule) -> float:
    """Learning rate of a step, as a share of the peak."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    part = (step - WARM_UP) / max(1, schedule.steps - WARM_UP)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


class Loop(Generic[Parts]):
    """Runs one stage to its end, from wherever an earlier run of it stopped."""

    def __init__(self, name: str, parts: Parts, schedule: Schedule, folder: Path) -> None:
        self.name, self.parts, self.schedule, self.folder = name, parts, schedule, folder
        trained = [p for p in parts.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            trained, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=schedule.decay
        )
        self.average = copy.deepcopy(parts).requires_grad_(False)
        self.step, self.seconds = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self.state_path = folder / f"{name}.pt"
        if self.state_path.exists():
            self._load()

    def run(
        self,
        losses: Callable[[np.random.Generator, float], Mapping[str, Tensor]],
        evaluate: Callable[[Parts], Mapping[str, float]],
        eval_every: int = 500,
        save_every: int = SAVE_EVERY,
    ) -> Parts:
        """Trains to the last step and returns the averaged parts.

        Args:
            losses: the weighted parts of the loss of one step, from a generator and the share of
                steps done. The generator depends on the step alone, so that a resumed run sees
                the same data.
            evaluate: numbers for the log, of the averaged parts.
            eval_every: steps between two evaluations.
            save_every: steps between two resumable states.
        """
        while self.step < self.schedule.steps:
            began = time.process_time()
            parts = self._train_step(losses)
            self.seconds += time.process_time() - began
            self.step += 1
            last = self.step == self.schedule.steps
            if self.step % 50 == 0:
                self._log({key: round(value.detach().item(), 4) for key, value in parts.items()})
            if self.step % eval_every == 0 or last:
                self._log({f"eval_{k}": round(v, 4) for k, v in evaluate(self.average).items()})
            if self.step % save_every == 0 or last:
                self._save()
        return self.average

    def _train_step(
        self, losses: Callable[[np.random.Generator, float], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        share = rate_at(self.step, self.schedule)
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate * share
        rng = np.random.default_rng([self.step, len(self.name)])
        parts = losses(rng, self.step / self.schedule.steps)
        total = torch.stack(list(parts.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
        self.optimiser.step()
        keep = min(self.schedule.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for old, new in zip(self.average.parameters(), self.parts.parameters(), strict=True):
                old.lerp_(new, 1 - keep)
        return parts

    def _log(self, values: Mapping[str, float]) -> None:
        line = {"stage": self.name, "step": self.step, "core_s": round(self.seconds), **values}
        print(json.dumps(line), flush=True)
        with (self.folder / "curve.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def _save(self) -> None:
        state = {
            "parts": self.parts.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        part = self.state_path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.state_path)

    def _load(self) -> None:
        state = torch.load(self.state_path, weights_only=True)
        self.parts.load_state_dict(state["parts"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
