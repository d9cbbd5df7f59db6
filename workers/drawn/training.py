"""The way of one worker through the stages of the small model, without Ray.

what is learned already -> stage begins -> steps -> states -> ... -> OUTPUT/model

OUTPUT/_stages/vision    states, metrics and curve of a stage (`workers.drawn.running`)
OUTPUT/model             what jobs/label.py takes
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pixellm.checkpoints import save_checkpoint
from pixellm.drawn.recipe import Beginnings
from pixellm.drawn.stages import fill
from pixellm.peers import Peers
from workers.drawn.plan import DrawnPlan
from workers.drawn.running import CPU, StagePlace, StageRunner
from workers.errors import SettingsError
from workers.labels.commits import now
from workers.storage.folders import put_folder
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown
from workers.training.record import RECORD_FILE
from workers.training.states import States
from workers.version import code_version
from workers.wording import Say

PLACE = "_stages"
"""Folder of the output, with one for each stage."""
MODEL = "model"
"""Folder of the result."""


def count_kept(plan: DrawnPlan, store: Store, say: Say) -> int:
    """Steps of all stages behind which a run would go on."""
    places = (join_uri(plan.output, PLACE, name) for name in plan.stages)
    return sum(next(iter(States(store, place, say).steps()), 0) for place in places)


class DrawnTraining:
    """One small model on its way through the stages.

    Args:
        plan: of the run, the same on all workers.
        cache: local folder for rendered scenes.
        store: where the output lies.
        peers: who learns with this worker.
        say: takes lines for the user, of the first worker.
        device: on which this worker learns.
    """

    def __init__(
        self,
        plan: DrawnPlan,
        cache: Path,
        store: Store,
        peers: Peers,
        say: Say,
        device: torch.device = CPU,
    ) -> None:
        self._plan, self._store, self._peers = plan, store, peers
        self._runner = StageRunner(
            store, peers, say, plan.save_every, plan.evaluate_every, plan.accumulate, device
        )
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
            begin = partial(self._beginnings.stage, name, self.learned)
            self._runner.learn(begin, self._place(name))
        if "joint" in self._plan.stages:
            return self._write_model()
        return join_uri(self._plan.output, PLACE)

    def learned(self, name: str) -> Mapping[str, Tensor]:
        """The averaged weights of a stage.

        Raises:
            SettingsError: it is not done, or that of another run.
        """
        found = self._runner.learned(self._place(name))
        if found is None:
            raise SettingsError(
                f"--output {shown(self._plan.output)} holds no finished stage {name!r}, which those"
                " after it begin with: name it in --stages, too"
            )
        return found

    def digest(self, name: str) -> str:
        """Of all that decides what a stage learns."""
        return self._plan.digest(name, self._beginnings.digest, self._peers.world)

    def _place(self, name: str) -> StagePlace:
        uri = join_uri(self._plan.output, PLACE, name)
        return StagePlace(name, uri, self.digest(name), self._plan.recipe.schedules[name].steps)

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
            (folder / RECORD_FILE).write_text(self._record(), encoding="utf-8")
            put_folder(folder, place, self._store, last=lambda file: file.endswith(".safetensors"))
        return place

    def _record(self) -> str:
        record = {
            "recipe": asdict(self._plan.recipe),
            "batches_of_a_step": self._plan.accumulate * self._peers.world,
            "finished_at": now(),
            "code_version": code_version(),
        }
        return json.dumps(record, indent=2, sort_keys=True) + "\n"
