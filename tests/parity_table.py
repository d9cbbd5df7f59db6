"""The parity table: a fixture's recorded values, ours beside them, and what may differ.

A quantity is one line of the table; it may stand for several tensors (one per image, say). Tensors
that a fixture holds only thinned out (every 4th patch, say) are compared thinned out.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

RELATIVE = 1e-4
"""Largest error over largest reference value: hidden states, embeddings, losses, gradients."""
MASK_LOGITS = 5e-3
"""Largest error of mask logits, which reach tens."""


class Fixture:
    """A reference folder. Every tensor and key of meta.json that is looked at is noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors = load_file(folder / "tensors.safetensors")
        self._meta = json.loads((folder / "meta.json").read_text())
        self.seen: set[str] = set()

    def tensor(self, name: str) -> Tensor:
        """A recorded tensor."""
        self.seen.add(name)
        return self.tensors[name]

    def meta(self, key: str) -> Any:
        """A key of meta.json; None where there is none."""
        self.seen.add(key)
        return self._meta.get(key)

    def names(self) -> set[str]:
        """Everything that could be looked at."""
        asked = {f"evaluate.{key}" for one in self._meta.get("evaluate", ()) for key in one}
        return {*self.tensors, *self._meta, *asked}

    @property
    def images(self) -> int:
        """How many images it has."""
        return sum(name.endswith(".raw_u8") for name in self.tensors)


@dataclass(slots=True)
class Line:
    """One quantity: the worst of its comparisons."""

    quantity: str
    allowed: str
    compared: int = 0
    absolute: float = 0.0
    relative: float = 0.0
    problems: tuple[str, ...] = ()


class Table:
    """Collects comparisons of ours with the fixture's."""

    def __init__(self, fixture: Fixture) -> None:
        self.fixture = fixture
        self.lines: dict[str, Line] = {}
        self.remarks: list[str] = []
        """What a check left out, and why."""

    def close(self, quantity: str, name: str, ours: Tensor, *, optional: bool = False) -> None:
        """Relative to the largest reference value."""
        self._recorded(quantity, name, ours, f"{RELATIVE:g} rel", optional)

    def logits(self, quantity: str, name: str, ours: Tensor, *, optional: bool = False) -> None:
        """Mask logits: absolute."""
        self._recorded(quantity, name, ours, f"{MASK_LOGITS:g} abs", optional)

    def exact(self, quantity: str, name: str, ours: Tensor, *, optional: bool = False) -> None:
        """Ids, pixels, key masks: equal."""
        self._recorded(quantity, name, ours, "equal", optional)

    def equal(self, quantity: str, name: str, ours: object, theirs: object) -> None:
        """Counts, assignments and other plain values."""
        bad = None if ours == theirs else f"{name}: {_short(ours)} instead of {_short(theirs)}"
        self._note(quantity, "equal", 0.0 if bad is None else math.inf, 0.0, bad)

    def scalar(self, quantity: str, name: str, ours: float, theirs: float) -> None:
        """A single number, relative."""
        self._compare(quantity, name, torch.tensor(ours), torch.tensor(theirs), f"{RELATIVE:g} rel")

    def within(
        self, quantity: str, name: str, ours: Tensor, theirs: Tensor, allowed: Tensor
    ) -> None:
        """Elementwise, with an allowance of its own for every value."""
        error = (ours.double() - theirs.double()).abs()
        worst = float(error.max()) if error.numel() else 0.0
        known = theirs.double().abs() > allowed  # below, a relative error means nothing
        relative = float((error / theirs)[known].max()) if bool(known.any()) else 0.0
        holds = bool((error <= allowed).all())  # not a number is no agreement either
        bad = None if holds else f"{name}: off by {worst:.2e}"
        self._note(quantity, "by value", worst, relative, bad)

    def crashed(self, quantity: str, error: Exception) -> None:
        """A check that couldn't be carried out."""
        self._note(quantity, "runs", math.inf, math.inf, f"{type(error).__name__}: {error}")

    def _recorded(
        self, quantity: str, name: str, ours: Tensor, allowed: str, optional: bool
    ) -> None:
        if name in self.fixture.tensors:
            self._compare(quantity, name, ours, self.fixture.tensor(name), allowed)
        elif not optional:
            self._note(quantity, allowed, math.inf, math.inf, f"{name}: not in the fixture")

    def _compare(
        self, quantity: str, name: str, ours: Tensor, theirs: Tensor, allowed: str
    ) -> None:
        ours = thin(ours.detach(), theirs)
        if ours.numel() == theirs.numel() == 0:
            self._note(quantity, allowed, 0.0, 0.0, None)
            return
        if ours.shape != theirs.shape:
            bad = f"{name}: shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
            self._note(quantity, allowed, math.inf, math.inf, bad)
            return
        absolute = float((ours.double() - theirs.double()).abs().max())
        largest = float(theirs.double().abs().max())
        relative = absolute / largest if largest else (math.inf if absolute else 0.0)
        error = {"equal": absolute, "abs": absolute}.get(allowed.split()[-1], relative)
        limit = 0.0 if allowed == "equal" else float(allowed.split()[0])
        bad = None if error <= limit else f"{name}: off by {error:.2e}"  # NaN is bad, too
        self._note(quantity, allowed, absolute, relative, bad)

    def _note(
        self, quantity: str, allowed: str, absolute: float, relative: float, bad: str | None
    ) -> None:
        line = self.lines.setdefault(quantity, Line(quantity, allowed))
        line.compared += 1
        line.absolute, line.relative = max(line.absolute, absolute), max(line.relative, relative)
        if bad is not None:
            line.problems = (*line.problems, bad)

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return bool(self.lines) and not any(line.problems for line in self.lines.values())

    def render(self, explained: dict[str, str]) -> str:
        """The table, what is wrong, and every name of the fixture that nothing was compared with.

        Args:
            explained: patterns of names that need no comparison, and why.
        """
        head = f"{'quantity':38s} {'values':>6s} {'largest abs':>12s} {'largest rel':>12s}"
        rows = [f"{head}  {'allowed':10s} ok"]
        for line in self.lines.values():
            numbers = f"{line.compared:6d} {line.absolute:12.2e} {line.relative:12.2e}"
            verdict = "NO" if line.problems else "yes"
            rows.append(f"{line.quantity:38s} {numbers}  {line.allowed:10s} {verdict}")
        rows += [
            f"FAILED {line.quantity}: {_listed(line.problems)}"
            for line in self.lines.values()
            if line.problems
        ]
        rows += [f"not compared: {remark}" for remark in self.remarks]
        for name in sorted(self.fixture.names() - self.fixture.seen):
            why = (reason for pattern, reason in explained.items() if re.fullmatch(pattern, name))
            rows.append(f"not compared: {name} ({next(why, 'unknown to this check')})")
        return "\n".join(rows)


def thin(ours: Tensor, theirs: Tensor) -> Tensor:
    """Our tensor at the steps at which the recorded one was kept."""
    if ours.dim() != theirs.dim() or not theirs.numel():
        return ours
    for axis, (full, kept) in enumerate(zip(ours.shape, theirs.shape, strict=True)):
        step = math.ceil(full / kept)
        ours = ours.index_select(axis, torch.arange(0, full, max(1, step)))
    return ours


def _listed(problems: Sequence[str]) -> str:
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
