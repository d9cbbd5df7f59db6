"""The score of held-out scenes, on answers that are made by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pixellm
from pixellm.answers import Answer, Target
from pixellm.drawn.questions import GROUP, ask
from pixellm.drawn.scenes import TEST_SEEDS, draw_scene, render
from pixellm.drawn.score import format_table, judge, main, make_parser, match, summary, verdicts
from pixellm.run_lengths import RunMask
from tests.scoring import evaluate, row
from workers.scoring.options import ScoringOptions
from workers.scoring.sums import ALL

SHIPPED = Path(pixellm.__file__).parent / "shipped" / "drawn"
SCENE = draw_scene(TEST_SEEDS[3])
DRAWING = render(SCENE, 128, 128)


def _question(count):
    asked = (ask(SCENE, np.random.default_rng(seed)) for seed in range(400))
    return next(question for question in asked if len(question.targets) == count)


def _answer(masks, text):
    targets = tuple(
        Target(i, None, None, "none", RunMask.from_pixels(mask), 1.0, None, None, None)
        for i, mask in enumerate(masks)
    )
    return Answer(text, (), targets, malformed=False, truncated=False)


def test_the_right_masks_in_any_order_are_exact():
    question = _question(2)
    masks = [DRAWING.masks[i] for i in reversed(question.targets)]
    verdict = judge(question, _answer(masks, question.answer.replace(GROUP, "[SEG]")), DRAWING)
    assert verdict.exact
    assert verdict.words
    assert verdict.ious == (1.0, 1.0)


def test_an_extra_mask_counts_zero_and_spoils_the_answer():
    question = _question(1)
    other = next(i for i in range(len(SCENE.things)) if i not in question.targets)
    masks = [DRAWING.masks[question.targets[0]], DRAWING.masks[other]]
    verdict = judge(question, _answer(masks, ""), DRAWING)
    assert not verdict.exact
    assert sorted(verdict.ious) == [0.0, 1.0]


def test_a_missing_mask_counts_zero():
    question = _question(2)
    verdict = judge(question, _answer([DRAWING.masks[question.targets[0]]], ""), DRAWING)
    assert not verdict.exact
    assert sorted(verdict.ious) == [0.0, 1.0]


def test_nothing_said_where_nothing_matches_counts_one_and_a_mask_there_zero():
    question = _question(0)
    silent = judge(question, _answer([], "There is no such object."), DRAWING)
    talking = judge(question, _answer([DRAWING.masks[0]], ""), DRAWING)
    assert silent.exact
    assert not talking.exact
    scores = summary([silent, talking])
    assert scores["nothing"]["exact"] == scores["nothing"]["gIoU"] == 0.5


def test_the_total_counts_every_answer_once():
    said = _answer([], "")
    found = [judge(_question(count), said, DRAWING) for count in (0, 1, 2)]
    assert summary(found)["total"]["questions"] == 3
    kinds = [row["questions"] for kind, row in summary(found).items() if kind != "total"]
    assert sum(kinds) == 3


def test_matching_pairs_each_mask_once():
    truth = np.zeros((2, 4, 4), bool)
    truth[0, :2], truth[1, 2:] = True, True
    said = np.stack([truth[0], truth[0]])
    assert sorted(match(said, truth)) == [0.0, 1.0]


def test_scenes_that_were_trained_on_are_not_scored():
    with pytest.raises(ValueError, match="seed"):
        verdicts(None, [5], 1)


def test_every_column_of_the_table_is_explained_below_it():
    scores = summary([judge(_question(count), _answer([], ""), DRAWING) for count in (0, 1)])
    table, _, legend = format_table(scores).partition("\n\n")
    header, *lines = table.splitlines()
    assert [line.split()[0] for line in lines] == list(scores)
    count, *shares = scores["total"].values()
    assert lines[0].split()[1:] == [f"{count}", *(f"{share:.4f}" for share in shares)]
    for name in scores["total"]:
        assert name in header
        assert name == "questions" or f"\n{name}  " in f"\n{legend}"


def test_every_flag_has_a_help_text_with_its_default():
    for action in make_parser()._actions:
        assert action.help, action.dest
        if action.dest not in ("help", "model"):
            assert "(default: " in action.help


def test_the_three_measures_that_are_called_giou_differ_as_the_legend_says():
    """One target missed and one "nothing" answered rightly: 1/2 here, 0 for the others."""
    missed, silent = (judge(_question(count), _answer([], ""), DRAWING) for count in (1, 0))
    assert summary([missed, silent])["total"]["gIoU"] == 0.5
    gold = [row(DRAWING.masks[list(_question(1).targets)], text="1"), row(text="2")]
    scores = evaluate(gold, [row(text="1"), row(text="2")], ScoringOptions("fixed")).scores[ALL]
    assert scores["giou"] == scores["muse_giou"] == 0


def test_the_command_says_how_far_it_is_and_then_its_scores(tmp_path, capsys):
    path = tmp_path / "scores.json"
    threads = str(torch.get_num_threads())  # as many as before: later tests have them, too
    flags = ["--scenes", "2", "--questions", "1", "--threads", threads, "--json", str(path)]
    main(["--model", str(SHIPPED), *flags])
    told = capsys.readouterr()
    assert told.err == "\r2 of 2 scenes\n"
    scores = json.loads(path.read_text())
    assert told.out == f"{format_table(scores)}\n"
    assert scores["total"]["questions"] == 2
