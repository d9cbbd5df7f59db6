"""Scores a model on held-out drawn scenes, generating freely.

    python -m pixellm.drawn.score --model pixellm/shipped/drawn

Masks of the answer and targets are paired one to one, so that the sum of their IoUs is largest; a
mask without partner, missing or extra, has an IoU of 0. What the table then says: see `LEGEND`.

Three measures of this repository are called gIoU. All are means of IoUs over masks, and none is the
generalised IoU of boxes.

    here                             pairs by the IoU of finished masks; "nothing matches", rightly
                                     answered without a mask, counts as one more IoU of 1
    giou of jobs/evaluate.py         pairs as here; such an answer has no pair and counts nothing
    muse_giou of jobs/evaluate.py    MUSE's: pairs by the loss (BCE and DICE) of masks at some
                                     points; such an answer has no pair, either

So the one here is higher where "nothing" is asked often and well answered. Only compare numbers of
the same measure.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from pixellm.answers import Answer, DecodeSettings
from pixellm.checkpoints import load_checkpoint
from pixellm.drawn.questions import GROUP, KINDS, Question, ask, names_same
from pixellm.drawn.scenes import TEST_SEEDS, Drawing, Scene, draw_scene, render, require_seeds
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from pixellm.images import prepare_image

BATCH = 16
"""Scenes that are answered together."""
HIT = 0.5
"""IoU above which a target counts as found."""
LEGEND = """\
gIoU         mean IoU of all masks, asked for or said: paired one to one by IoU, a missing or extra
             one counts 0, and a right "nothing matches" counts 1. Neither giou nor muse_giou of
             jobs/evaluate.py, which leave those answers out; the latter (MUSE's) pairs by the loss
exact        share of answers with as many masks as targets, each with an IoU above 1/2
words        share of answers whose text names each target by its full name, and nothing else
IoU of hits  mean of the IoUs above 1/2, a right "nothing matches" being a 1 again: how well what
             was found is cut out"""
"""What the columns of `format_table` say, for people."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one answer did."""

    kind: str
    ious: tuple[float, ...]
    """One per mask, matched or not; empty when nothing was asked for and nothing was said."""
    exact: bool
    words: bool
    """Whether the text names every target by its full name, and nothing else."""


def judge(question: Question, answer: Answer, drawing: Drawing) -> Verdict:
    """Compares an answer with the truth."""
    truth = drawing.masks[list(question.targets)]
    said = np.array([target.mask for target in answer.targets], dtype=bool)
    ious = match(said.reshape(-1, *truth.shape[1:]), truth)
    exact = len(said) == len(truth) and all(iou > HIT for iou in ious)
    return Verdict(
        question.kind,
        ious,
        exact,
        names_same(answer.text, question.answer.replace(GROUP, "[SEG]"), "[SEG]"),
    )


def match(said: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, ...]:
    """IoU of each matched pair, then 0 for every mask without a partner."""
    both = np.einsum("phw,thw->pt", said.astype(np.float32), truth.astype(np.float32))
    areas = said.sum((1, 2))[:, None] + truth.sum((1, 2))[None]
    iou = both / np.maximum(areas - both, 1)
    pairs = zip(*linear_sum_assignment(-iou), strict=True)
    matched = [float(iou[p, t]) for p, t in pairs]
    return (*matched, *[0.0] * (max(iou.shape) - len(matched)))


def held_out_questions(scene: Scene, count: int, kinds: Sequence[str] = ()) -> list[Question]:
    """What is asked about a held-out scene: always the same.

    Args:
        scene: the scene.
        count: of questions.
        kinds: that take turns; () for the mix that `ask` has.
    """
    rng = np.random.default_rng([7, scene.seed])
    if not kinds:
        return [ask(scene, rng) for _ in range(count)]
    return [ask(scene, rng, kinds[turn % len(kinds)]) for turn in range(count)]


def verdicts(
    engine: Engine,
    seeds: Sequence[int],
    questions: int,
    kinds: Sequence[str] = (),
    tell: Callable[[int], None] = lambda done: None,
) -> list[Verdict]:
    """Asks about scenes, and judges the answers.

    Args:
        engine: of the model.
        seeds: of the scenes.
        questions: about each of them.
        kinds: as in `held_out_questions`.
        tell: hears, after each batch, how many scenes are done.
    """
    require_seeds(seeds, TEST_SEEDS)
    found = []
    side = engine.model.config.image_side
    for start in range(0, len(seeds), BATCH):
        scenes = [draw_scene(seed) for seed in seeds[start : start + BATCH]]
        drawings = [render(scene, side, side) for scene in scenes]
        asked = [held_out_questions(scene, questions, kinds) for scene in scenes]
        answers = engine.answer(
            [
                Sample(prepare_image(drawing.rgb, side), tuple(q.text for q in asks))
                for drawing, asks in zip(drawings, asked, strict=True)
            ]
        )
        for drawing, asks, said in zip(drawings, asked, answers, strict=True):
            found += [judge(q, a, drawing) for q, a in zip(asks, said, strict=True)]
        tell(start + len(scenes))
    return found


def summary(found: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    """Scores of all answers and of each kind of question."""
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in found:
        groups["total"].append(verdict)
        groups[verdict.kind].append(verdict)
    return {kind: _scores(groups[kind]) for kind in ("total", *KINDS) if groups[kind]}


def _scores(group: Sequence[Verdict]) -> dict[str, float]:
    ious = [iou for verdict in group for iou in (verdict.ious or (1.0,))]
    hits = [iou for iou in ious if iou > HIT]
    return {
        "questions": len(group),
        "gIoU": round(float(np.mean(ious)), 4),
        "exact": round(float(np.mean([verdict.exact for verdict in group])), 4),
        "words": round(float(np.mean([verdict.words for verdict in group])), 4),
        "IoU of hits": round(float(np.mean(hits)), 4) if hits else 0.0,
    }


def format_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The scores with a line for each kind of question, and what the columns mean below."""
    columns = list(scores["total"])
    lines = [f"{'kind':12s}" + "".join(f"  {name:>11s}" for name in columns)]
    for kind, row in scores.items():
        lines.append(f"{kind:12s}" + "".join(f"  {_number(row[name]):>11s}" for name in columns))
    return "\n".join([*lines, "", LEGEND])


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, and writes JSON when asked to."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.skip < 0:
        parser.error(f"--skip {options.skip}: must be 0 or more")
    torch.set_num_threads(options.threads)
    engine = Engine(load_checkpoint(options.model), DecodeSettings(max_new_tokens=80))
    seeds = TEST_SEEDS[options.skip :][: options.scenes]

    def tell(done: int) -> None:
        print(f"\r{done:,} of {len(seeds):,} scenes", end="", file=sys.stderr, flush=True)

    scores = summary(verdicts(engine, seeds, options.questions, tell=tell))
    print(file=sys.stderr)
    print(format_table(scores))
    if options.json:
        options.json.write_text(json.dumps(scores, indent=2) + "\n")


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description="Scores a model on held-out drawn scenes.")
    add, default = parser.add_argument, "(default: %(default)s)"
    add("--model", type=Path, required=True, help="folder of the model (must be given)")
    add("--scenes", type=int, default=500, help=f"how many are asked about {default}")
    add("--skip", type=int, default=0, help=f"held-out scenes to pass over first {default}")
    add("--questions", type=int, default=4, help=f"asked about each scene {default}")
    add("--threads", type=int, default=2, help=f"CPU threads {default}")
    add("--json", type=Path, help="file for the scores, beside the table (default: none)")
    return parser


if __name__ == "__main__":
    main()
