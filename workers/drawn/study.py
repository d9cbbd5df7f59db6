"""The paper's ablations on drawn scenes: every arm from every seed, and the table of them.

base -> for each seed and arm: begins -> steps -> averaged weights -> scores -> table

OUTPUT/base                     the stages that all arms share (`workers.drawn.training`)
OUTPUT/arms/paper/0             states and metrics of an arm (`workers.drawn.running`)
OUTPUT/arms/paper/0/result.json its scores
OUTPUT/table.md, table.json     made of all results that are there
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path

from pixellm.drawn.arm_scores import score_arm
from pixellm.drawn.arms import ARMS, Arm, ArmStage, begin_arm
from pixellm.drawn.bank import Bank
from pixellm.drawn.crowds import crowded_seeds
from pixellm.drawn.recipe import STAGES, Recipe, small_schedule
from pixellm.drawn.scenes import TRAIN_SEEDS
from pixellm.drawn.stages import Stage, fill
from pixellm.drawn.start import SIDE
from pixellm.loop import Alone, Schedule
from workers.drawn.plan import DrawnPlan
from workers.drawn.running import Say, StagePlace, StageRunner
from workers.drawn.table import ArmResult, write_table
from workers.drawn.training import DrawnTraining
from workers.errors import ObjectMissing
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown

BASE, ARMS_PLACE, RESULT = "base", "arms", "result.json"
FIRST_SCENE = 70_000_000
"""Seed behind all scenes that the base has seen."""


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What is compared, and how long each learns."""

    output: str
    base: Recipe
    """of what the arms share"""
    arms: tuple[str, ...] = tuple(ARMS)
    seeds: tuple[int, ...] = (0, 1, 2)
    schedule: Schedule = small_schedule(300, 1.5e-3)  # noqa: RUF009 it is frozen
    """of each arm"""
    scenes: int = 4_000
    """to learn from"""
    held_out: int = 100
    """scenes that scores are of"""
    save_every: int = 100


class Study:
    """One study on its way.

    Args:
        plan: of it.
        cache: local folder for rendered scenes.
        store: where the output lies.
        say: takes lines for the user.
    """

    def __init__(self, plan: StudyPlan, cache: Path, store: Store, say: Say) -> None:
        self._plan, self._cache, self._store, self._say = plan, cache, store, say
        self._runner = StageRunner(store, Alone(), say, plan.save_every, plan.schedule.steps)
        shared = DrawnPlan(join_uri(plan.output, BASE), plan.base, STAGES[:-1])
        self._base = DrawnTraining(shared, cache, store, Alone(), say)

    def run(self) -> str:
        """Runs what is not there yet.

        Returns:
            The table, as Markdown.

        Raises:
            TrainingDiverged: a loss is no number, or far from those before.
            SettingsError: the output is that of another study.
            StorageError: it can't be read or written.
        """
        self._base.run()
        for seed in self._plan.seeds:
            for name in self._plan.arms:
                if self._result(ARMS[name], seed) is None:
                    self._run_arm(ARMS[name], seed)
        return write_table(self._store, self._plan.output, self._results())

    def _run_arm(self, arm: Arm, seed: int) -> None:
        began, place = time.process_time(), self._place(arm, seed)
        self._runner.learn(partial(self._stage, arm, seed), place)
        averaged = self._runner.learned(place)
        assert averaged is not None  # it was just run to its end
        ready = self._begin(arm, seed)
        fill(ready.stage.lessons.parts, averaged)
        scores = score_arm(arm, ready.joint, self._plan.held_out)
        seconds = round(time.process_time() - began, 1)
        result = ArmResult(arm.name, seed, self._digest(arm, seed), scores, seconds)
        self._store.put(join_uri(place.uri, RESULT), result.to_json())
        self._say(f"{place.name}: {json.dumps(asdict(scores))}; {seconds:.0f} core seconds")

    def _stage(self, arm: Arm, seed: int) -> Stage:
        return self._begin(arm, seed).stage

    def _begin(self, arm: Arm, seed: int) -> ArmStage:
        bank = self._crowded_bank if arm.crowded else self._bank
        return begin_arm(arm, seed, self._base.learned, bank, self._plan.schedule)

    # ---- scenes ----

    @cached_property
    def _bank(self) -> Bank:
        return Bank(range(FIRST_SCENE, FIRST_SCENE + self._plan.scenes), SIDE, self._cache)

    @cached_property
    def _crowded_bank(self) -> Bank:
        seeds = crowded_seeds(range(FIRST_SCENE, TRAIN_SEEDS.stop), self._plan.scenes)
        return Bank(seeds, SIDE, self._cache)

    # ---- results ----

    def _results(self) -> Iterable[ArmResult]:
        """All that are there, also those of arms that were not asked for now."""
        uris = [info.uri for info in self._store.list(join_uri(self._plan.output, ARMS_PLACE))]
        for uri in uris:
            if uri.endswith(f"/{RESULT}"):
                yield ArmResult.from_json(self._store.get(uri), shown(uri))

    def _result(self, arm: Arm, seed: int) -> ArmResult | None:
        uri = join_uri(self._place(arm, seed).uri, RESULT)
        try:
            found = ArmResult.from_json(self._store.get(uri), shown(uri))
        except ObjectMissing:
            return None
        return found if found.digest == self._digest(arm, seed) else None

    def _place(self, arm: Arm, seed: int) -> StagePlace:
        uri = join_uri(self._plan.output, ARMS_PLACE, arm.name, f"{seed}")
        name = f"{arm.name}, seed {seed}"
        return StagePlace(name, uri, self._learns(arm, seed), self._plan.schedule.steps)

    def _learns(self, arm: Arm, seed: int) -> str:
        """Digest of all that decides what an arm learns."""
        schedule, scenes = asdict(self._plan.schedule), self._plan.scenes
        return _digest_of(self._base.digest("align"), asdict(arm), seed, schedule, scenes)

    def _digest(self, arm: Arm, seed: int) -> str:
        """The same and how it is scored."""
        return _digest_of(self._learns(arm, seed), self._plan.held_out)


def base_recipe(share: float) -> Recipe:
    """What the arms share: the small model's recipe with a share of its steps."""
    recipe = Recipe()
    schedules = {
        name: replace(each, steps=max(1, round(share * each.steps)))
        for name, each in recipe.schedules.items()
    }
    return replace(recipe, schedules=schedules)


def _digest_of(*values: object) -> str:
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
