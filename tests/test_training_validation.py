"""A run that is scored while it learns: by the same rows, without being disturbed, and the best."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from pixellm.checkpoints import Checkpoint, load_checkpoint, official_state
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from pixellm.images import prepare_image
from pixellm.learners import Tuning
from pixellm.loop import Schedule, StepReport
from pixellm.peers import Alone
from pixellm.tiny import tiny_checkpoint
from pixellm.tuning import TunedModel
from tests.scene_tables import SHIPPED, put_scenes
from tests.training_tables import (
    memory_table,
    photo_rows,
    put_photos,
    put_table,
    tiny,
    tiny_maker,
)
from workers.errors import SettingsError
from workers.labels.parts import open_table
from workers.records.pictures import PictureLimits
from workers.scoring.evaluation import evaluate_tables
from workers.scoring.options import ScoringOptions
from workers.scoring.sums import ALL
from workers.storage.memory import MemoryStore
from workers.storage.stores import Anywhere
from workers.training.best import BEST
from workers.training.evaluation import REPORTED, Evaluation, Graded, take_reported
from workers.training.examples import Split
from workers.training.held_out import choose_rows
from workers.training.pictures import Pictures
from workers.training.plan import DataSet, TrainPlan
from workers.training.results import write_result
from workers.training.start import Bench, start_loop
from workers.training.states import States
from workers.training.trial import Trial, merge_weights, write_row
from workers.training.validation import start_validation
from workers.training.worker import train

TABLE, OUTPUT = "mem://b/out", "mem://b/trained"
PLAN = TrainPlan(
    model="tiny",
    data=(DataSet(TABLE),),
    output=OUTPUT,
    schedule=Schedule(steps=6, rate=0.1, warm_up=2, seed=3),  # so fast that it gets worse again
    per_worker=2,
    accumulate=2,
    save_every=2,
    evaluate_every=2,
    evaluate_rows=3,
    best="loss",
)


class Killed(BaseException):
    """As if the process was gone."""


def bench_of(store, told, output=OUTPUT):
    new = tiny_checkpoint(0, max_positions=512)
    checkpoint = Checkpoint(new.model, new.tokenizer, "")
    return Bench(checkpoint, store, States(store, output, told.append), Alone(), say=told.append)


def run(plan, store, die_at=None):
    """What a run has learned, what it heard and what it told; nothing learned where it was killed.

    `die_at` is a step and whether it dies only when that has been scored.
    """
    events, told = [], []

    def hear(event):
        events.append(event)
        if die_at == (event.step, isinstance(event, Evaluation)):
            raise Killed

    try:
        return train(plan, bench_of(store, told), hear), events, told
    except Killed:
        return None, events, told


def scores_of(events):
    return {each.step: dict(each.scores) for each in events if isinstance(each, Evaluation)}


def best_of(events):
    return [(each.step, each.best) for each in events if isinstance(each, Evaluation)]


def objects_in(store, folder):
    return {info.uri: store.get(info.uri) for info in store.list(f"{OUTPUT}/{folder}")}


def copy_of(store):
    copy = MemoryStore()
    for info in store.list("mem://b"):
        copy.put(info.uri, store.get(info.uri))
    put_photos(copy)
    return copy


@pytest.fixture(scope="module")
def whole():
    """A run from its beginning to its end, with its store."""
    store = memory_table()
    return (*run(PLAN, store), store)


# ---- that it is scored ---------------------------------------------------------------------------


def test_the_weights_with_the_best_score_are_the_result(whole):
    learned, events, told, _ = whole
    losses = {step: scores["loss"] for step, scores in scores_of(events).items()}
    assert list(losses) == [2, 4, 6]
    best = min(losses, key=losses.get)
    assert best == 4  # or this would show nothing
    assert learned.graded.step == best
    assert learned.graded == Graded(best, scores_of(events)[best])
    assert f"up to step {best}: loss {losses[best]:.3f}" in told[-1]


def test_what_is_written_scores_what_was_said_of_it(whole, tmp_path):
    learned, _, _, store = whole
    bench = bench_of(store, [])
    place = write_result(learned.tuned, PLAN, bench, learned.graded)
    for info in store.list(place):
        (tmp_path / info.uri.rpartition("/")[2]).write_bytes(store.get(info.uri))
    written = load_checkpoint(tmp_path)
    held_out = choose_rows(PLAN, store, tiny_maker(store, 497).encode)
    tried = Trial(written, store, PLAN.losses, PLAN.order, ()).try_images(held_out.images)
    assert round(tried.loss / tried.rows, 6) == learned.graded.scores["loss"]
    card = json.loads((tmp_path / "training.json").read_text())
    assert card["scores"] == {"step": learned.graded.step, **learned.graded.scores}


def test_a_run_that_is_scored_learns_the_same_as_one_that_is_not(whole):
    last = replace(PLAN, best="last")
    scored, events, _ = run(last, memory_table())
    plain, reports, _ = run(replace(PLAN, evaluate_every=0), memory_table())
    assert [each for each in events if isinstance(each, StepReport)] == reports
    weights = dict(plain.tuned.merged_state())
    for name, value in scored.tuned.merged_state():
        assert torch.equal(value, weights[name]), name
    assert scores_of(events) == scores_of(whole[1])
    assert scored.graded.step == 6
    assert plain.graded is None


@pytest.mark.parametrize(
    "die_at",
    [(4, True), *(pytest.param(at, marks=pytest.mark.slow) for at in [(2, True), (6, True)])],
)
def test_a_run_that_was_killed_ends_with_the_same_best_and_the_same_scores(whole, die_at):
    store = memory_table()
    _, before, _ = run(PLAN, store, die_at)
    learned, after, _ = run(PLAN, store)
    saved = die_at[0] - 2  # the state of its step was still to come
    assert list(scores_of(after)) == [step for step in (2, 4, 6) if step > saved]
    assert scores_of(before) | scores_of(after) == scores_of(whole[1])
    assert learned.graded == whole[0].graded
    assert objects_in(store, BEST) == objects_in(whole[3], BEST)
    weights = dict(whole[0].tuned.merged_state())
    for name, value in learned.tuned.merged_state():
        assert torch.equal(value, weights[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("where", ["_best/000000004/", "_best/000000004.json", "pages/000000004"])
def test_killed_while_the_best_is_written_it_ends_the_same(whole, where, monkeypatch):
    store = memory_table()
    put = store.put

    def killed(uri, data):
        if f"{OUTPUT}/{where}" in uri:
            raise Killed
        return put(uri, data)

    monkeypatch.setattr(store, "put", killed)
    assert run(PLAN, store)[0] is None
    monkeypatch.setattr(store, "put", put)
    learned, _, _ = run(PLAN, store)
    assert learned.graded == whole[0].graded
    assert objects_in(store, BEST) == objects_in(whole[3], BEST)


def test_a_run_that_is_done_says_its_best_again_and_asks_nothing(whole):
    learned, events, _ = run(PLAN, copy_of(whole[3]))
    assert events == []
    assert learned.graded == whole[0].graded


def test_where_an_average_is_kept_it_is_what_is_scored_and_what_is_written():
    schedule = replace(PLAN.schedule, steps=2, average=0.9)
    for best in ("loss", "last"):
        store = memory_table()
        plan = replace(PLAN, schedule=schedule, best=best, evaluate_rows=1)
        learned, events, _ = run(plan, store)
        kept = States(store, OUTPUT, print).newest().tensors
        for name, weight in learned.tuned.trained().items():
            assert torch.equal(weight, kept[f"average.{name}"]), name
        name = "codebook.head.0.weight"
        assert not torch.equal(kept[f"average.{name}"], kept[f"weights.{name}"])
        model = merge_weights(learned.tuned, Alone().whole, torch.float32)
        trial = Trial(Checkpoint(model, tiny().tokenizer, ""), store, plan.losses, plan.order, ())
        tried = trial.try_images(choose(store, plan).images)
        assert round(tried.loss / tried.rows, 6) == events[-1].scores["loss"]


def test_a_run_that_was_done_without_scores_is_scored_when_it_is_asked_for(whole):
    store = memory_table()
    run(replace(PLAN, evaluate_every=0), store)
    learned, events, _ = run(replace(PLAN, best="last"), store)
    assert scores_of(events) == {6: scores_of(whole[1])[6]}
    assert learned.graded == Graded(6, scores_of(whole[1])[6])


def test_a_best_that_is_damaged_is_told_of_and_the_last_is_the_result(whole):
    store = copy_of(whole[3])
    for uri in objects_in(store, BEST):
        if uri.endswith(".safetensors"):
            store.put(uri, b"damaged")
    learned, _, told = run(PLAN, store)
    assert learned.graded == Graded(6, scores_of(whole[1])[6])
    assert any("passed over" in line for line in told)
    assert told[-1] == "no best weights are kept: the result is what was learned last"


def test_a_best_by_other_rows_is_no_rival():
    store = memory_table()
    _, before, _ = run(replace(PLAN, evaluate_rows=1), store, die_at=(4, True))
    _, events, _ = run(PLAN, store)
    first = next(each for each in events if isinstance(each, Evaluation))
    assert first.step == before[-1].best.step == 4
    assert first.scores["loss"] > before[-1].best.scores["loss"]  # or this would show nothing
    assert first.best.scores == first.scores


# ---- which rows ----------------------------------------------------------------------------------


def choose(store, plan, runs=None):
    return choose_rows(plan, store, tiny_maker(store, 497).encode, runs)


def ids_of(held_out):
    return [gold.row.item_id for gold in held_out.golds]


def test_the_rows_lie_on_held_out_images_and_are_the_same_each_time():
    plan = replace(PLAN, evaluate_rows=100)
    found = choose(memory_table(), plan)
    split = Split("held_out", plan.held_out)
    held = {row.item_id for row in photo_rows() if split.holds(row.image_sha256)}
    assert set(ids_of(found)) == held
    assert 0 < len(held) < len(photo_rows())
    some = choose(memory_table(photo_rows()[::-1], rows_per_part=7), replace(plan, evaluate_rows=4))
    assert ids_of(some) == ids_of(found)[:4]


def test_rows_that_come_later_push_others_out_one_by_one():
    plan = replace(PLAN, evaluate_rows=8, held_out=0.0, validation=(TABLE,))
    few, more = choose(memory_table(photo_rows()[:30]), plan), choose(memory_table(), plan)
    new = {row.item_id for row in photo_rows()[30:]}
    assert [each for each in ids_of(more) if each not in new] == [
        each for each in ids_of(few) if each in ids_of(more)
    ]
    assert len(set(ids_of(more)) & set(ids_of(few))) >= 4


def test_a_validation_table_is_taken_whole_and_a_question_once():
    store = memory_table()
    put_table(store, "mem://b/more", photo_rows(7))
    tables = (TABLE, "mem://b/more")
    found = choose(store, replace(PLAN, validation=tables, evaluate_rows=200))
    assert Counter(ids_of(found)) == Counter({row.item_id for row in photo_rows(7)})


def test_rows_are_read_from_the_runs_that_they_were_read_from_before():
    store, plan = memory_table(), replace(PLAN, validation=(TABLE,), evaluate_rows=200)
    before = choose(store, plan)
    put_table(store, TABLE, photo_rows(7), run_id="run-2", finish=True)
    assert ids_of(choose(store, plan)) != ids_of(before)
    assert ids_of(choose(store, plan, before.runs)) == ids_of(before)


@pytest.mark.parametrize(
    "tables", [("mem://b/more",), (TABLE, "mem://b/more"), ("mem://b/more",) * 2]
)
def test_a_run_goes_on_with_other_tables_to_score_it(tables):
    store = memory_table()
    put_table(store, "mem://b/more", photo_rows(7), run_id="of-its-own")
    plan = replace(PLAN, validation=(TABLE,), schedule=replace(PLAN.schedule, steps=4))
    run(plan, store, die_at=(3, False))
    learned, events, _ = run(replace(plan, validation=tables), store)
    assert learned is not None
    assert events[-1].step == 4


def test_what_is_not_learned_is_not_asked_and_what_cannot_be_asked_is_counted():
    first, second, third, *rest = photo_rows()
    rows = [
        replace(first, review="rejected"),
        replace(second, answer_text="no mark"),
        replace(third, instruction="<image>"),
        *rest,
    ]
    found = choose(memory_table(rows), replace(PLAN, validation=(TABLE,), evaluate_rows=200))
    assert set(ids_of(found)) == {row.item_id for row in rest}
    assert found.skipped == {"marks_differ": 1, "special_tokens": 1}


def test_a_run_that_goes_on_is_scored_by_the_rows_that_it_began_with(whole):
    store = memory_table(finish=True)
    run(PLAN, store, die_at=(5, False))
    put_table(store, TABLE, photo_rows(2), run_id="run-2", finish=True)
    learned, events, _ = run(PLAN, store)
    assert scores_of(events)[6] == scores_of(whole[1])[6]
    assert learned.graded == whole[0].graded


# ---- what is said --------------------------------------------------------------------------------


def told_of(plan, store):
    told = []
    return start_validation(plan, bench_of(store, told), None), told


def test_without_held_out_images_nothing_is_scored_and_it_is_said_once():
    found, told = told_of(replace(PLAN, held_out=0.0), memory_table())
    assert found is None
    assert told == [
        "nothing is scored while it learns, and the result is what was learned last: --held-out is"
        " 0, and there is no --validation"
    ]


def test_a_table_without_a_held_out_image_is_told_of():
    split = Split("train", 0.2)
    rows = [row for row in photo_rows() if split.holds(row.image_sha256)]
    found, told = told_of(PLAN, memory_table(rows))
    assert found is None
    assert "no row of --data that can be asked lies on a held-out image" in told[0]


def test_few_rows_are_told_of():
    _, told = told_of(PLAN, memory_table())
    assert "3 questions about" in told[0]
    assert told[0].endswith("; so few that a score says little")
    _, told = told_of(replace(PLAN, validation=(TABLE,), evaluate_rows=30), memory_table())
    assert told == ["30 questions about 8 images are scored every 2 steps and at the end"]


def test_a_validation_table_of_which_nothing_can_be_asked_is_refused():
    rows = [replace(row, review="rejected") for row in photo_rows()]
    with pytest.raises(SettingsError, match=r"--validation .* has no row that can be asked"):
        told_of(replace(PLAN, validation=(TABLE,)), memory_table(rows))


# ---- how it is scored ----------------------------------------------------------------------------


@pytest.mark.slow
def test_scores_are_those_of_an_evaluation_of_labels_that_the_same_model_makes(tmp_path):
    store = Anywhere()
    gold, labels = f"{tmp_path}/gold", f"{tmp_path}/labels"
    put_scenes(store, gold, f"{tmp_path}/in")
    checkpoint = load_checkpoint(SHIPPED)
    plan = replace(PLAN, output=f"{tmp_path}/run", validation=(gold,), evaluate_rows=200)
    bench = Bench(checkpoint, store, States(store, plan.output, print), Alone(), say=print)
    held_out = choose_rows(plan, store, tiny_maker(store, 497).encode)
    put_table(store, labels, list(label(checkpoint, held_out, store)))
    tables = [open_table(store, place, None) for place in (gold, labels)]
    found = evaluate_tables(*tables, f"{tmp_path}/scratch", ScoringOptions(muse="off")).scores[ALL]
    assert found["giou"] > 0.6
    assert found["nothing_accuracy"] is not None
    tuned = TunedModel(checkpoint.model, plan.tuning)
    seen = start_validation(plan, bench, None).evaluate(tuned, start_loop(plan, tuned, Alone()))
    assert seen.scores.pop("loss") > 0
    assert seen.scores == take_reported(found, None)
    assert set(seen.scores) == set(REPORTED)


def label(checkpoint, held_out, store):
    """Rows as labelling makes them, image after image."""
    engine, pictures = Engine(checkpoint), Pictures(store, PictureLimits())
    for golds in held_out.images:
        picture = pictures.open(golds[0].conversation.example)
        image = prepare_image(picture.rgb, checkpoint.model.config.image_side)
        (answers,) = engine.answer([Sample(image, tuple(g.row.instruction for g in golds))])
        for gold, answer in zip(golds, answers, strict=True):
            yield write_row(gold, picture, answer)


def test_a_merged_model_is_the_one_that_learns_with_its_steps_added():
    model = tiny_checkpoint(0, max_positions=512).model
    tuned = TunedModel(model.train(), Tuning())
    with torch.no_grad():
        for name, weight in tuned.trained().items():
            if ".lora_B." in name:
                weight.fill_(0.01)
    made = merge_weights(tuned, Alone().whole, torch.float32)
    assert not made.training
    assert tuned.model.training
    state = official_state(made)
    for name, value in tuned.merged_state():
        assert torch.equal(state[name], value), name
    ids = torch.tensor([[1, 5, 6, 7]])
    own = tuned.model.eval().language.model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(made.language.model(input_ids=ids).last_hidden_state, own)


def test_losses_compare_masks_in_the_order_of_training():
    store, rows = memory_table(), photo_rows()
    several = [row for row in rows if row.answer_text.count("[SEG]") > 1]
    unnamed = [
        replace(
            row, answer_text=" and ".join(["[SEG]"] * len(row.targets)) + ".", targets=bare(row)
        )
        for row in several
    ]
    put_table(store, "mem://b/unnamed", unnamed)
    held_out = choose(store, replace(PLAN, validation=("mem://b/unnamed",), evaluate_rows=50))
    losses = {
        order: Trial(tiny(), store, PLAN.losses, order, ()).try_images(held_out.images).loss
        for order in ("as-labelled", "left-to-right")
    }
    assert losses["as-labelled"] != losses["left-to-right"]


def bare(row):
    """Its targets without names, from right to left."""
    return tuple(
        replace(target, phrase=None, span_start=None, span_end=None)
        for target in sorted(row.targets, key=lambda target: -target.bbox[0])
    )


def test_pictures_that_are_gone_leave_their_rows_out_and_are_told_of():
    store = memory_table()
    held_out = choose(store, replace(PLAN, validation=(TABLE,), evaluate_rows=8))
    (first, *_) = held_out.images
    store.delete(first[0].row.image_uri)
    tried = Trial(tiny(), store, PLAN.losses, PLAN.order, ()).try_images(held_out.images)
    assert tried.left_out == {"image_missing": len(first)}
    assert tried.rows == 8 - len(first)


def test_each_picture_is_fetched_once_for_its_answers_and_its_losses(monkeypatch):
    store, fetched = memory_table(), []
    held_out = choose(store, replace(PLAN, evaluate_rows=40, held_out=0.5))
    assert len(held_out.golds) > 4 * len(held_out.images)  # losses take several batches of each
    get = store.get
    monkeypatch.setattr(store, "get", lambda uri, *more: fetched.append(uri) or get(uri, *more))
    Trial(tiny(), store, PLAN.losses, PLAN.order, ()).try_images(held_out.images)
    assert len(fetched) == len(set(fetched)) == len(held_out.images)


def test_the_page_shows_the_first_rows_with_what_is_right_and_what_was_said(whole):
    _, events, _, store = whole
    pages = objects_in(store, "pages")
    assert [uri.rpartition("/")[2] for uri in pages] == [f"{step:09d}.html" for step in (2, 4, 6)]
    text = pages[f"{OUTPUT}/pages/000000004.html"].decode()
    for gold in choose(store, PLAN).golds:
        assert f"<h2>{gold.row.instruction}</h2>" in text
        assert gold.row.answer_text in text
    assert text.count("data:image/jpeg;base64,") == 6
    assert f"{scores_of(events)[4]['loss']:.3f}</td>" in text
    assert '<a href="000000002.html">' in text
    assert text.count("<circle") == 2
