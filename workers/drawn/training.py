"""The way of one worker through the stages of the small model, without Ray.

    what is learned already -> stage begins -> steps -> states -> ... -> OUTPUT/model

    OUTPUT/_stages/vision/_states    from which a stage goes on, as any other run does
    OUTPUT/_stages/vision/metrics    losses of every step
    OUTPUT/_stages/vision/curve      000000500.json: what was scored after that many steps
    OUTPUT/model                     what jobs/label.py takes

All workers do the same with scenes of their own. The first of them writes, and speaks.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from pixellm.checkpoints import save_checkpoint
from pixellm.drawn.recipe import Beginnings
from pixellm.drawn.stages import Stage, Turn, fill
from pixellm.loop import Alone, Loop, StepReport
from workers.drawn.plan import DrawnPlan
from workers.errors import SettingsError
from workers.labels.commits import now
from workers.storage.objects import Store
from workers.storage.uris import join_uri
from workers.training.metrics import Metrics
from workers.training.parallel import Together, share
from workers.training.states import State, States
from workers.version import code_version

PLACE = "_stages"
"""Folder of the output, with one for each stage."""
MODEL, CARD = "model", "training.json"
"""Folder of the result, and in it the file that says where it comes from."""
AVERAGE = "average."
"""Before the names of averaged weights in a state (`Loop.state`)."""
TOLD_EVERY = 50
"""Steps between two lines."""

Say = Callable[[str], None]


class DrawnTraining:
    """One small model on its way through the stages.

    Args:
        plan: of the run, the same on all workers.
        cache: local folder for rendered scenes.
        store: where the output lies.
        peers: who learns with this worker.
        say: takes lines for the user, of the first worker.
    """

    def __init__(
        self, plan: DrawnPlan, cache: Path, store: Store, peers: Alone | Together, say: Say
    ) -> None:
        self._plan, self._store, self._peers, self._say = plan, store, peers, say
        self._beginnings = Beginnings(plan.recipe, cache)

    def run(self) -> str:
        """Runs the stages of the plan, each from its newest state on.

        Returns:
            Where the model lies, or the stages, if the last one is not among them.

        Raises:
            TrainingDiverged: a loss is no number, or far from those before.
            SettingsError: the output is that of another run, or a stage before these isn't done.
            StorageError: the output can't be read or written.
        """
        for name in self._plan.stages:
            if self._is_done(self._newest(name), name):
                self._say(f"{name}: done already")
            else:
                self._learn(name)
        if "joint" in self._plan.stages:
            return self._write_model()
        return join_uri(self._plan.output, PLACE)

    def learned(self, name: str) -> Mapping[str, Tensor]:
        """The averaged weights of a stage.

        Raises:
            SettingsError: it is not done, or that of another run.
        """
        found = self._newest(name)
        if found is None or not self._is_done(found, name):
            raise SettingsError(
                f"--output {self._plan.output!r} holds no finished stage {name!r}, which those"
                " after it begin with: name it in --stages, too"
            )
        averaged = (key for key in found.tensors if key.startswith(AVERAGE))
        return {key.removeprefix(AVERAGE): found.tensors[key] for key in averaged}

    # ---- a stage ----

    def _learn(self, name: str) -> None:
        stage = self._beginnings.stage(name, self.learned)
        learner: nn.Module = stage.lessons
        if isinstance(self._peers, Together):
            learner = share(learner, [], "ddp")
        loop = Loop[Turn](learner, stage.trained(), stage.schedule, self._peers)
        if found := self._newest(name):
            loop.restore(found.tensors, found.rest["loop"])
            self._say(f"{name}: going on from step {loop.step:,} of {stage.schedule.steps:,}")
        metrics = Metrics(self._store, self._place(name), stage.scenes * self._peers.world)
        while not loop.done:
            turn = Turn(name, loop.step, stage.schedule.steps, self._peers.rank)
            report = loop.learn([turn])
            self._tell(name, report, loop.done, metrics.note(report))
            if loop.step % self._plan.evaluate_every == 0 or loop.done:
                self._evaluate(stage, loop)
            if loop.step % self._plan.save_every == 0 or loop.done:
                self._save(name, loop, metrics)

    def _tell(self, name: str, report: StepReport, last: bool, pace: float | None) -> None:
        if report.step % TOLD_EVERY and not last:
            return
        parts = ", ".join(f"{part} {value:.3f}" for part, value in report.losses.items())
        speed = "" if pace is None else f"; {pace:.1f} scenes/s"
        steps = self._plan.recipe.schedules[name].steps
        self._say(f"{name}: step {report.step:,} of {steps:,}: {parts}{speed}")

    def _evaluate(self, stage: Stage, loop: Loop[Turn]) -> None:
        if self._peers.rank:
            return
        with loop.averaged():
            scores = {key: round(value, 4) for key, value in stage.evaluate().items()}
        if scores:
            place = join_uri(self._place(stage.name), "curve", f"{loop.step:09d}.json")
            line = json.dumps({"stage": stage.name, "step": loop.step, **scores})
            self._store.put(place, f"{line}\n".encode())
            self._say(line)

    def _save(self, name: str, loop: Loop[Turn], metrics: Metrics) -> None:
        tensors, rest = loop.state()
        if self._peers.rank == 0:
            metrics.write()
            self._states(name).save(loop.step, tensors, {"plan": self._digest(name), "loop": rest})
        # the next stage begins with this state: nobody goes on before it is there
        self._peers.mean(torch.zeros(1))

    # ---- states ----

    def _newest(self, name: str) -> State | None:
        found = self._states(name).newest()
        if found is not None and found.rest["plan"] != self._digest(name):
            raise SettingsError(
                f"--output {self._plan.output!r} holds a stage {name!r} of other settings, another"
                " number of workers or other versions of the libraries. Give another output, or the"
                " same settings to go on"
            )
        return found

    def _is_done(self, found: State | None, name: str) -> bool:
        return found is not None and found.step >= self._plan.recipe.schedules[name].steps

    def _states(self, name: str) -> States:
        return States(self._store, self._place(name), self._say)

    def _digest(self, name: str) -> str:
        return self._plan.digest(name, self._beginnings.digest, self._peers.world)

    def _place(self, name: str) -> str:
        return join_uri(self._plan.output, PLACE, name)

    # ---- the result ----

    def _write_model(self) -> str:
        """Writes the model folder; its weights last: a folder without them is no model."""
        place = join_uri(self._plan.output, MODEL)
        if self._peers.rank:
            return place
        stage = self._beginnings.stage("joint", self.learned)
        fill(stage.lessons.parts, self.learned("joint"))
        with tempfile.TemporaryDirectory(prefix="drawn-") as name:
            folder = Path(name)
            save_checkpoint(stage.model, self._beginnings.tokenizer, folder)
            (folder / CARD).write_text(self._card(), encoding="utf-8")
            for path in sorted(folder.iterdir(), key=lambda each: each.suffix == ".safetensors"):
                self._store.put(join_uri(place, path.name), path.read_bytes())
        return place

    def _card(self) -> str:
        card = {
            "recipe": asdict(self._plan.recipe),
            "workers": self._peers.world,
            "finished_at": now(),
            "code_version": code_version(),
        }
        return json.dumps(card, indent=2, sort_keys=True) + "\n"
