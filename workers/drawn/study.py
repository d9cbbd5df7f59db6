"""The paper's ablations on drawn scenes: every arm from every seed, and the table of them.

base -> for each seed and arm: decoder (cut) -> codebook (join) -> scores -> table

OUTPUT/base                     the stages that all arms share (`workers.drawn.training`)
OUTPUT/arms/paper/0             states and metrics of an arm (`workers.drawn.running`)
OUTPUT/arms/paper/0/result.json its scores
OUTPUT/table.md, table.json     made of all results that are there
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from pixellm.drawn.arm_scores import score_arm
from pixellm.drawn.arms import ARMS, Arm, ArmStages
from pixellm.drawn.bank import Bank
from pixellm.drawn.crowds import crowded_seeds
from pixellm.drawn.recipe import SCHEDULES, STAGES, Recipe, small_schedule
from pixellm.drawn.scenes import TRAIN_SEEDS
from pixellm.drawn.stages import fill
from pixellm.drawn.start import SIDE
from pixellm.loop import Schedule
from pixellm.peers import Alone
from workers.drawn.plan import DrawnPlan
from workers.drawn.running import StagePlace, StageRunner
from workers.drawn.table import ArmResult, write_table
from workers.drawn.training import DrawnTraining
from workers.errors import ObjectMissing
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown
from workers.wording import Say

BASE, ARMS_PLACE, RESULT = "base", "arms", "result.json"
RATES = {"cut": SCHEDULES["vision"].rate, "join": SCHEDULES["joint"].rate}
"""Highest learning rates of an arm's stages: those that the recipe has for the same work."""
LONGEST_WARM_UP = 50
"""Steps in which the rate of an arm rises."""
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
    steps: int = 250
    """of each of the two stages of an arm"""
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
        self._runner = StageRunner(store, Alone(), say, plan.save_every, plan.steps)
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
        began, place = time.process_time(), partial(self._place, arm, seed)
        bank = self._crowded_bank if arm.crowded else self._bank
        arm_stages = ArmStages(arm, seed, self._base.learned, bank)
        self._runner.learn(partial(arm_stages.cut, self._schedule("cut")), place("cut"))
        cut = self._learned(place("cut"))
        stage, joint = arm_stages.join(self._schedule("join"), cut)
        self._runner.learn(lambda: stage, place("join"))
        fill(stage.lessons.parts, self._learned(place("join")))
        scores = score_arm(arm, joint, self._plan.held_out)
        seconds = round(time.process_time() - began, 1)
        result = ArmResult(arm.name, seed, self._digest(arm, seed), scores, seconds)
        self._store.put(self._result_uri(arm, seed), result.to_json())
        self._say(
            f"{arm.name}, seed {seed}: {json.dumps(asdict(scores))}; {seconds:.0f} core seconds"
        )

    def _learned(self, place: StagePlace) -> Mapping[str, Tensor]:
        found = self._runner.learned(place)
        assert found is not None  # it was just run to its end
        return found

    def _schedule(self, stage: str) -> Schedule:
        """As in the recipe; the rate rises for a shorter time in a short stage."""
        steps = self._plan.steps
        warm_up = min(LONGEST_WARM_UP, steps // 4)
        return replace(small_schedule(steps, RATES[stage]), warm_up=warm_up)

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
        """All of these settings that are there, also those of arms that were not asked for now."""
        others = 0
        for info in list(self._store.list(join_uri(self._plan.output, ARMS_PLACE))):
            if not info.uri.endswith(f"/{RESULT}"):
                continue
            found = ArmResult.from_json(self._store.get(info.uri), shown(info.uri))
            if found.arm in ARMS and found.digest == self._digest(ARMS[found.arm], found.seed):
                yield found
            else:
                others += 1
        if others:
            self._say(f"{others} results of other settings are not in the table")

    def _result(self, arm: Arm, seed: int) -> ArmResult | None:
        uri = self._result_uri(arm, seed)
        try:
            found = ArmResult.from_json(self._store.get(uri), shown(uri))
        except ObjectMissing:
            return None
        return found if found.digest == self._digest(arm, seed) else None

    def _result_uri(self, arm: Arm, seed: int) -> str:
        return join_uri(self._plan.output, ARMS_PLACE, arm.name, f"{seed}", RESULT)

    def _place(self, arm: Arm, seed: int, stage: str) -> StagePlace:
        uri = join_uri(self._plan.output, ARMS_PLACE, arm.name, f"{seed}", stage)
        name = f"{arm.name}, seed {seed}, {stage}"
        return StagePlace(name, uri, self._learns(arm, seed), self._plan.steps)

    def _learns(self, arm: Arm, seed: int) -> str:
        """Digest of all that decides what an arm learns."""
        schedules = [asdict(self._schedule(stage)) for stage in RATES]
        scenes = self._plan.scenes
        return _digest_of(self._base.digest("align"), asdict(arm), seed, schedules, scenes)

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
