"""A whole training run of the tiny model on real photos: it learns, and it can be killed."""

from dataclasses import replace

import pytest
import torch

from pixellm.checkpoints import Checkpoint
from pixellm.errors import TrainingDiverged
from pixellm.loop import Schedule
from pixellm.peers import Alone
from pixellm.tiny import tiny_checkpoint
from tests.training_tables import memory_table, photo_rows, put_table
from workers.errors import SettingsError
from workers.training import worker
from workers.training.learner import Learner
from workers.training.plan import DataSet, TrainPlan
from workers.training.start import Bench
from workers.training.states import States
from workers.training.worker import train

TABLE, OUTPUT = "mem://b/out", "mem://b/trained"
PLAN = TrainPlan(
    model="tiny",
    data=(DataSet(TABLE),),
    output=OUTPUT,
    schedule=Schedule(steps=6, rate=3e-3, warm_up=2, seed=3),
    per_worker=2,
    accumulate=2,
    save_every=2,
    evaluate_every=0,
)


class Killed(BaseException):
    """As if the process was gone."""


def run(plan, store, die_after=None, sha256=""):
    """The reports of a run, and what it told; the weights at its end when it came to one."""
    reports, told = [], []

    def hear(report):
        reports.append(report)
        if report.step == die_after:
            raise Killed

    tiny = tiny_checkpoint(0, max_positions=512)
    checkpoint = Checkpoint(tiny.model, tiny.tokenizer, sha256)
    bench = Bench(checkpoint, store, States(store, plan.output, told.append), Alone())
    try:
        tuned = train(plan, bench, hear).tuned
    except Killed:
        return reports, told, None
    return reports, told, dict(tuned.merged_state())


@pytest.fixture(scope="module")
def whole():
    return run(PLAN, memory_table())


def test_a_run_learns_what_people_drew(whole):
    plan = replace(PLAN, schedule=Schedule(steps=40, rate=5e-3, warm_up=2), save_every=100)
    reports, _, _ = run(plan, memory_table(photo_rows(2)[:8]))
    first, last = reports[0].losses, reports[-1].losses
    assert set(first) == {"ce", "bce", "dice", "refinement"}
    assert last["ce"] < first["ce"] / 2
    assert last["bce"] < first["bce"]


@pytest.mark.parametrize("death", [1, 2, 3, 5])
def test_a_run_that_was_killed_goes_on_and_ends_as_one_that_was_not(whole, death):
    store = memory_table()
    before, _, _ = run(PLAN, store, die_after=death)
    after, told, weights = run(PLAN, store)
    saved = death - 1 - (death - 1) % 2  # it dies before what it did last is kept
    assert [report.step for report in after] == list(range(saved + 1, 7))
    assert before + after[death - saved :] == whole[0]
    assert not told
    for name, value in whole[2].items():
        assert torch.equal(weights[name], value), name


def test_a_table_that_is_labelled_again_meanwhile_is_not_what_a_run_goes_on_with(whole):
    store = memory_table(finish=True)
    before, _, _ = run(PLAN, store, die_after=3)
    put_table(store, TABLE, photo_rows(2), run_id="run-2", finish=True)
    after, _, _ = run(PLAN, store)
    assert before + after[1:] == whole[0]


def test_a_run_that_is_done_has_nothing_left_to_do(whole):
    store = memory_table()
    run(PLAN, store)
    reports, _, weights = run(PLAN, store)
    assert reports == []
    assert all(torch.equal(weights[name], value) for name, value in whole[2].items())


def test_a_loss_that_is_no_number_names_the_rows_and_leaves_the_state_before(monkeypatch):
    store, seen = memory_table(), []
    forward = Learner.forward

    def overflow(learner, batch):
        seen.append(batch.names)
        parts = forward(learner, batch)
        return {name: part * (torch.nan if len(seen) == 8 else 1) for name, part in parts.items()}

    monkeypatch.setattr(Learner, "forward", overflow)
    with pytest.raises(TrainingDiverged, match="loss of step 4 is no number") as caught:
        run(PLAN, store)
    ids = {row.item_id for row in photo_rows()}
    assert len(seen[7]) == 2
    assert set(seen[7]) < ids
    assert all(name in f"{caught.value}" for name in seen[7])
    assert not any(name in f"{caught.value}" for name in ids - set(seen[7]))
    assert States(store, OUTPUT, print).steps() == [2]


def test_a_gradient_that_is_no_number_names_the_rows_of_its_step(monkeypatch):
    seen, forward = [], Learner.forward

    def break_gradient(learner, batch):
        seen.append(batch.names)
        parts = forward(learner, batch)
        if len(seen) == 4:
            parts["ce"].register_hook(lambda gradient: gradient * torch.nan)
        return parts

    monkeypatch.setattr(Learner, "forward", break_gradient)
    with pytest.raises(TrainingDiverged, match="loss of step 2 has no finite gradient") as caught:
        run(PLAN, memory_table())
    names = [*seen[2], *seen[3]]
    assert f"{caught.value}".endswith(f"; the step's rows are {', '.join(names)}")


def test_frozen_parts_stay_as_they_were(whole):
    before = dict(tiny_checkpoint(0, max_positions=512).model.state_dict())
    clip = "model.vision_tower.vision_tower.vision_model."
    after = {name: value for name, value in whole[2].items() if name.startswith(clip)}
    assert after
    for name, value in after.items():
        assert torch.equal(value, before[f"vision.clip.{name.removeprefix(clip)}"])


def test_an_output_of_other_settings_is_refused():
    store = memory_table()
    run(PLAN, store, die_after=3)
    other = replace(PLAN, schedule=replace(PLAN.schedule, rate=1e-3))
    with pytest.raises(SettingsError, match="other settings or other data, at step 2"):
        run(other, store)


def test_a_run_that_was_begun_elsewhere_meanwhile_is_left_alone(monkeypatch):
    store = memory_table()
    begun = worker.start_validation

    def begin_slowly(*given):
        monkeypatch.setattr(worker, "start_validation", begun)
        run(PLAN, store, die_after=3)
        return begun(*given)

    monkeypatch.setattr(worker, "start_validation", begin_slowly)
    with pytest.raises(SettingsError, match="another training run has begun in --output"):
        run(PLAN, store)


def test_an_output_of_another_model_is_refused():
    store = memory_table()
    run(PLAN, store, die_after=3)
    with pytest.raises(SettingsError, match="training run of another model, at step 2"):
        run(PLAN, store, sha256="another")


def test_layers_that_are_computed_again_learn_the_same(whole):
    reports, _, _ = run(replace(PLAN, recompute=True), memory_table())
    for one, other in zip(reports, whole[0], strict=True):
        assert one.total == pytest.approx(other.total, rel=1e-5)


def test_half_precision_is_of_the_arithmetic_and_not_of_what_learns(whole):
    plan = replace(PLAN, precision="bf16", schedule=replace(PLAN.schedule, steps=2))
    reports, _, weights = run(plan, memory_table())
    assert reports[0].total == pytest.approx(whole[0][0].total, rel=0.02)
    assert reports[0].total != whole[0][0].total
    assert {value.dtype for value in weights.values()} == {torch.float32}
