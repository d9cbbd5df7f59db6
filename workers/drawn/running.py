"""A stage from its newest state to its end.

    PLACE/_states    from which it goes on, as any other run does
    PLACE/metrics    losses of every step
    PLACE/curve      000000500.json: what was scored after that many steps

All workers do the same with other batches of a step. The first of them writes, and speaks.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixellm.drawn.stages import Stage, Turn
from pixellm.loop import Loop, StepReport
from pixellm.peers import Peers
from workers.errors import SettingsError
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown
from workers.training.claims import claimed
from workers.training.metrics import Metrics
from workers.training.parallel import Together, share
from workers.training.states import State, States
from workers.wording import Say

AVERAGE = "average."
"""Before the names of averaged weights in a state (`Loop.state`)."""
CPU = torch.device("cpu")
TOLD_EVERY = 50
"""Steps between two lines."""


@dataclass(frozen=True, slots=True)
class StagePlace:
    """Where a stage keeps what it has."""

    name: str
    """for messages"""
    uri: str
    digest: str
    """of all that decides what it learns: a state of another digest is of another run"""
    steps: int
    """after which it is done"""


class StageRunner:
    """Runs stages, each in a place of its own.

    Args:
        store: where the places lie.
        peers: who learns with this worker.
        say: takes lines for the user, of the first worker.
        save_every: steps between two states.
        evaluate_every: steps between two evaluations.
        accumulate: batches that each worker has of a step.
        device: on which this worker learns.
    """

    def __init__(
        self,
        store: Store,
        peers: Peers,
        say: Say,
        save_every: int = 250,
        evaluate_every: int = 500,
        accumulate: int = 1,
        device: torch.device = CPU,
    ) -> None:
        self._store, self._peers, self._say, self._device = store, peers, say, device
        self._save_every, self._evaluate_every = save_every, evaluate_every
        first = peers.rank * accumulate
        self._own = range(first, first + accumulate)

    def learn(self, begin: Callable[[], Stage], place: StagePlace) -> None:
        """Runs a stage to its end; one that is there already is not even begun.

        Raises:
            TrainingDiverged: a loss is no number, or far from those before.
            SettingsError: the place holds a stage of other settings.
            StorageError: it can't be read or written.
        """
        found = self._newest(place)
        if found is not None and found.step >= place.steps:
            self._say(f"{place.name}: done already")
            return
        first = self._peers.rank == 0
        with claimed(self._store, place.uri, place.digest, releases=first):
            self._run(begin(), place, found)

    def _run(self, stage: Stage, place: StagePlace, found: State | None) -> None:
        stage.to(self._device)
        loop = self._start(stage, place, found)
        steps, batches = stage.schedule.steps, len(self._own) * self._peers.world
        metrics = Metrics(self._store, place.uri, stage.scenes * batches)
        while not loop.done:
            report = loop.learn([Turn(stage.name, loop.step, steps, each) for each in self._own])
            pace = metrics.note(report).examples_per_s
            self._tell(place, report, loop.done, pace)
            if loop.step % self._evaluate_every == 0 or loop.done:
                self._evaluate(stage, place, loop)
            if loop.step % self._save_every == 0 or loop.done:
                self._save(place, loop, metrics)

    def learned(self, place: StagePlace) -> Mapping[str, Tensor] | None:
        """The averaged weights of a stage by their names; None if it isn't done.

        Raises:
            SettingsError: the place holds a stage of other settings.
        """
        found = self._newest(place)
        if found is None or found.step < place.steps:
            return None
        averaged = (key for key in found.tensors if key.startswith(AVERAGE))
        return {key.removeprefix(AVERAGE): found.tensors[key] for key in averaged}

    def _start(self, stage: Stage, place: StagePlace, found: State | None) -> Loop[Turn]:
        learner: nn.Module = stage.lessons
        if isinstance(self._peers, Together):
            learner = share(learner, [], "ddp", some_idle=True)  # no question, no pointer to it
        loop = Loop[Turn](learner, stage.trained(), stage.schedule, self._peers)
        if found is not None:
            loop.restore(found.tensors, found.rest["loop"])
            self._say(f"{place.name}: going on from step {loop.step:,} of {stage.schedule.steps:,}")
        return loop

    def _newest(self, place: StagePlace) -> State | None:
        found = States(self._store, place.uri, self._say).newest()
        if found is not None and found.rest.get("plan") != place.digest:
            raise SettingsError(
                f"{shown(place.uri)} holds a stage of other settings, of another number of batches"
                " in a step (workers times --accumulate), or of other versions of the libraries."
                " Give another --output, or the same settings to go on"
            )
        return found

    def _tell(self, place: StagePlace, report: StepReport, last: bool, pace: float | None) -> None:
        if report.step % TOLD_EVERY and not last:
            return
        parts = ", ".join(f"{part} {value:.3f}" for part, value in report.losses.items())
        speed = "" if pace is None else f"; {pace:.1f} scenes/s"
        self._say(f"{place.name}: step {report.step:,} of {place.steps:,}: {parts}{speed}")

    def _evaluate(self, stage: Stage, place: StagePlace, loop: Loop[Turn]) -> None:
        if self._peers.rank:
            return
        with loop.averaged():
            scores = {key: round(value, 4) for key, value in stage.evaluate().items()}
        if scores:
            line = json.dumps({"stage": place.name, "step": loop.step, **scores})
            uri = join_uri(place.uri, "curve", f"{loop.step:09d}.json")
            self._store.put(uri, f"{line}\n".encode())
            self._say(line)

    def _save(self, place: StagePlace, loop: Loop[Turn], metrics: Metrics) -> None:
        tensors, rest = loop.state()
        if self._peers.rank == 0:
            metrics.write()
            states = States(self._store, place.uri, self._say)
            states.save(loop.step, tensors, {"plan": place.digest, "loop": rest})
        # the next stage begins with this state: nobody goes on before it is there
        self._peers.mean(torch.zeros(1, device=self._device))
