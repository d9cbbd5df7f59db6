"""jobs/train.py --recipe drawn: the stages run, go on where they were, and make a model folder."""

import json
from dataclasses import replace

import pytest
import torch

from jobs.train import main
from pixellm.checkpoints import load_checkpoint
from pixellm.drawn.recipe import STAGES, Beginnings, Recipe, small_schedule
from pixellm.drawn.stages import Turn
from pixellm.peers import Alone
from workers.drawn.plan import DrawnPlan
from workers.drawn.training import DrawnTraining
from workers.errors import SettingsError
from workers.storage.memory import MemoryStore
from workers.storage.stores import Anywhere
from workers.training.states import States

OUTPUT = "mem://b/out"
RECIPE = Recipe(0, 8, 2, schedules={name: small_schedule(2, 1e-3) for name in STAGES})
PLAN = DrawnPlan(OUTPUT, RECIPE, save_every=1, evaluate_every=2)


class Killed(BaseException):
    """As if the process was gone."""


class DyingStore(MemoryStore):
    """Dies the first time that a state is about to count, once for each of the names."""

    def __init__(self, markers):
        super().__init__()
        self.markers = set(markers)

    def put(self, uri, data):
        for marker in self.markers:
            if uri.endswith(marker):
                self.markers.remove(marker)
                raise Killed(marker)
        return super().put(uri, data)


def run(plan, store, cache):
    said = []
    place = DrawnTraining(plan, cache, store, Alone(), said.append).run()
    return place, said


def state(store, stage):
    return States(store, f"{OUTPUT}/_stages/{stage}", print).newest()


def objects(store, prefix):
    return {info.uri: store.get(info.uri) for info in store.list(prefix)}


@pytest.mark.slow
def test_a_training_that_was_killed_in_every_stage_ends_as_one_that_was_not(tmp_path):
    whole = MemoryStore()
    place, said = run(PLAN, whole, tmp_path)
    assert place == f"{OUTPUT}/model"
    assert not any("going on" in line for line in said)
    broken = DyingStore(f"{stage}/_states/000000002.json" for stage in STAGES)
    deaths = 0
    while broken.markers:
        with pytest.raises(Killed):
            run(PLAN, broken, tmp_path)
        deaths += 1
    _, said = run(PLAN, broken, tmp_path)
    assert deaths == len(STAGES)
    assert "joint: going on from step 1 of 2" in said
    for stage in STAGES:
        undisturbed, other = state(whole, stage).tensors, state(broken, stage).tensors
        assert undisturbed.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in undisturbed.items())
        metrics = f"{OUTPUT}/_stages/{stage}/metrics"
        lines = b"".join(objects(broken, metrics).values()).splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2]
        curve = f"{OUTPUT}/_stages/{stage}/curve"
        assert objects(whole, curve) == objects(broken, curve)
    weights = f"{OUTPUT}/model/model.safetensors"
    assert whole.get(weights) == broken.get(weights)
    # a second start has nothing to learn
    before = whole.get(weights)
    _, said = run(PLAN, whole, tmp_path)
    assert said == [f"{stage}: done already" for stage in STAGES]
    assert whole.get(weights) == before


@pytest.mark.slow
def test_the_command_ends_in_a_folder_that_loads(tmp_path, capsys):
    steps = [word for stage in STAGES for word in (f"--{stage}-steps", "1")]
    sizes = ["--scenes", "8", "--held-out", "2", "--threads", "1", "--cache", f"{tmp_path}/cache"]
    output = ["--recipe", "drawn", "--output", f"{tmp_path}/out"]
    assert main([*output, *sizes, *steps]) == 0
    assert capsys.readouterr().out == f"model      '{tmp_path}/out/model'\n"
    made = load_checkpoint(tmp_path / "out" / "model")
    assert made.model.config.group_size == 6
    # what is written is what the last stage has learned, averaged
    found = States(Anywhere(), f"{tmp_path}/out/_stages/joint", print).newest().tensors
    for name, value in made.model.codebook.named_parameters(prefix="codebook"):
        assert torch.equal(value, found[f"average.{name}"])
    card = json.loads((tmp_path / "out" / "model" / "training.json").read_text())
    assert card["recipe"]["schedules"]["joint"]["steps"] == 1


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_takes_all_that_its_losses_read_along_to_a_device(name, tmp_path):
    stage, elsewhere = Beginnings(RECIPE, tmp_path).stage(name, lambda _: {}), torch.device("meta")
    whose = stage.lessons._losses.__self__
    stage.to(elsewhere)
    assert whose.parts.device == elsewhere
    read = [*whose.parts.parameters(), *whose.parts.buffers(), *stage.trained().values()]
    assert {each.device for each in read} == {elsewhere}


def test_a_stage_whose_beginning_is_not_there_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="holds no finished stage 'words'"):
        run(replace(PLAN, stages=("language",)), MemoryStore(), tmp_path)


def test_it_is_the_same_run_whoever_learns_from_which_batches_of_a_step():
    digests = [
        replace(PLAN, accumulate=own).digest("words", "x", world)
        for own, world in [(4, 1), (2, 2), (1, 4), (1, 1)]
    ]
    assert len(set(digests[:3])) == 1
    assert digests[3] != digests[0]


def test_a_stage_of_other_settings_is_refused(tmp_path):
    store, stages = MemoryStore(), {"stages": ("words",)}
    run(replace(PLAN, **stages), store, tmp_path)
    schedules = RECIPE.schedules | {"words": small_schedule(3, 1e-3)}
    with pytest.raises(SettingsError, match="words' holds a stage of other settings"):
        run(replace(PLAN, **stages, recipe=replace(RECIPE, schedules=schedules)), store, tmp_path)
    schedules = RECIPE.schedules | {"vision": small_schedule(3, 1e-3)}
    other = replace(PLAN, **stages, recipe=replace(RECIPE, schedules=schedules))
    assert run(other, store, tmp_path)[1] == ["words: done already"]  # which saw no picture


def test_a_step_of_two_batches_has_the_mean_of_their_losses(tmp_path):
    store = MemoryStore()
    run(replace(PLAN, stages=("words",), accumulate=2), store, tmp_path)
    file = store.get(f"{OUTPUT}/_stages/words/metrics/000000001.jsonl")
    first = json.loads(file)["losses"]
    lessons = Beginnings(RECIPE, tmp_path).stage("words", dict).lessons
    with torch.no_grad():
        alone = [lessons(Turn("words", 0, 2, batch)) for batch in (0, 1)]
    for name, value in first.items():
        assert value == pytest.approx((alone[0][name] + alone[1][name]).item() / 2, rel=1e-5)
    assert first["ce"] != pytest.approx(alone[0]["ce"].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--seed", "200000000"), "--seed 200000000: scene seed 200000000 is not in range"),
        (("--stages", "vision,wrods"), "wrods"),
        (("--data", "gold"), "unknown flag --data"),
        (("--recipe", "drwan"), "--recipe: "),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(tmp_path, capsys, more, told):
    given = ["--recipe", "drawn", "--output", f"{tmp_path}/out", *more]
    assert main(given) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
