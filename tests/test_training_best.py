"""The best weights so far: kept whole, put back, and never those of another measure."""

import pytest
import torch
from torch import nn

from pixellm.peers import Alone
from workers.scoring.metrics import METRICS
from workers.storage.memory import MemoryStore
from workers.training.best import BEST, Best
from workers.training.evaluation import Evaluation, Graded, is_better, take_reported
from workers.training.states import States


def best_in(store, choice="giou", mark="rows"):
    return Best(States(store, "mem://b/out", print, BEST, kept=1), choice, mark, Alone())


def weights(value):
    return {"a": nn.Parameter(torch.full((2, 3), float(value)))}


def offer(best, *scores, first=1):
    for step, score in enumerate(scores, start=first):
        best.offer(Graded(step, {best.choice: score}), weights(step))


@pytest.mark.parametrize(
    ("choice", "scores", "step"),
    [
        ("giou", (0.1, 0.4, 0.3), 2),
        ("giou", (0.0, 0.0, 0.0), 3),  # nothing is right yet, but more was learned
        ("loss", (3.0, 1.0, 2.0), 2),
        ("exact", (0.5, 0.25, 0.125), 1),
    ],
)
def test_the_best_is_kept_and_put_back(choice, scores, step):
    store = MemoryStore()
    offer(best_in(store, choice), *scores)
    again, now = best_in(store, choice), weights(0)
    assert again.restore(now) == Graded(step, {choice: scores[step - 1]})
    assert torch.equal(now["a"].detach(), torch.full((2, 3), float(step)))
    assert len(list(store.list("mem://b/out"))) == 2  # a piece, and what makes it count


def test_a_better_one_takes_the_place_of_one_that_a_killed_run_had_later():
    store = MemoryStore()
    offer(best_in(store), 0.25, first=5)
    best = best_in(store)
    offer(best, 0.5, first=3)
    assert best_in(store).record == Graded(3, {"giou": 0.5})
    assert best_in(store).restore(weights(0)) == Graded(3, {"giou": 0.5})


def test_what_was_kept_by_another_measure_is_no_rival():
    store = MemoryStore()
    offer(best_in(store, mark="other rows"), 0.9, first=7)
    best = best_in(store)
    assert best.record is None
    assert best.restore(weights(0)) is None
    offer(best, 0.1)
    assert best_in(store).restore(weights(0)) == Graded(1, {"giou": 0.1})


def test_whoever_does_not_write_waits_for_the_one_who_does():
    store = MemoryStore()
    first = best_in(store)

    class Second(Alone):
        rank = 1

        def gather(self, value):
            offer(first, 0.5)  # the first worker is behind
            return [value, value]

    second = Best(States(store, "mem://b/out", print, BEST, kept=1), "giou", "rows", Second())
    offer(second, 0.5)
    assert not list(store.list("mem://b/out"))
    assert second.restore(weights(0)) == Graded(1, {"giou": 0.5})


def test_weights_of_another_run_are_not_put_in_the_place_of_the_best():
    store = MemoryStore()
    best = best_in(store)
    offer(best, 0.5)
    offer(best_in(store, mark="other rows"), 0.1)  # at the same step
    assert best.restore(weights(0)) is None


def test_a_note_without_scores_is_read_over():
    store = MemoryStore()
    States(store, "mem://b/out", print, BEST).save(1, {}, {"mark": "rows"})
    assert best_in(store).record is None


def test_a_score_that_is_not_measured_beats_nothing():
    assert not is_better({"exact": 1.0}, None, "giou")
    assert not is_better({"giou": 1.0}, None, "last")
    scores = dict.fromkeys(METRICS)
    assert take_reported({**scores, "exact": 0.5}, None) == {"exact": 0.5}


def test_the_line_about_an_evaluation_says_scores_best_and_time():
    best = Graded(100, {"giou": 0.75})
    scores = {"giou": 0.5, "ap": 0.1, "loss": 1.25}
    seen = Evaluation(1_500, scores, 1_000, 61.4, "giou", best, {"image_missing": 2})
    assert f"{seen}" == (
        "step 1,500 scored on 1,000 questions in 61 s: gIoU 0.500, loss 1.250;"
        " best gIoU so far 0.750, at step 100; left out: 2 image_missing"
    )
