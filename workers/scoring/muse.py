"""MUSE's protocol, on the masks of two label tables.

Masks are paired by BCE plus Dice at sampled points, and every mask without a partner counts beside
an empty one. That is made for logits and a table holds masks: here a pixel's logit is LOGIT inside
a mask and -LOGIT outside.

    fixed       the same points for all questions; a mask without a partner counts with its pixels;
                gIoU is the mean over all pairs
    official    as released, with its bugs (Q14 to Q16 of the quirks): random points, so that scores
                differ from run to run; a prediction without a truth is counted by its logits where
                they lie between 0 and 1, which no logit here does, so it counts as an IoU of 1; and
                gIoU is divided by the sum over images of max(predictions, truths), which may be
                less than the pairs

The judging of phrases that MUSE's authors did with GPT is no part of it, see `giou_named`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from secrets import randbits

import torch
from torch import Tensor

from pixellm.matching import POINTS, assign, compare_points, draw_points
from pixellm.run_lengths import RunMask
from workers.scoring.measures import Mask, Question
from workers.scoring.pairs import Pair, make_pairs
from workers.scoring.points import Places, find_places, sample_masks

LOGIT = 10.0
"""Of a pixel that surely belongs to a mask: a probability of 0.99995."""
SIZES = 32
"""Of pictures, whose pixels around the fixed points are remembered: 600 KB each."""


@dataclass(frozen=True, slots=True)
class Matched:
    """The pairs of one question, summed up."""

    iou: float
    both: float
    """pixels"""
    either: float
    """pixels"""
    pairs: int


@dataclass(frozen=True, slots=True)
class MaskCount:
    """How many masks one question has."""

    image: str
    """SHA-256"""
    truths: int
    predictions: int


def match_question(question: Question, official: bool) -> Matched:
    """Pairs the masks of a question, and counts."""
    pairs = find_pairs(question, official)
    counted = [pair for pair in pairs if not official or pair.truth is not None]
    forgiven = len(pairs) - len(counted)
    return Matched(
        iou=sum(map(_iou, counted)) + forgiven,
        both=sum(pair.both for pair in counted),
        either=sum(pair.either for pair in counted),
        pairs=len(pairs),
    )


def find_pairs(question: Question, official: bool) -> tuple[Pair, ...]:
    """The pairs of a question: matched ones, missed truths, extra predictions."""
    truths, predictions = question.truths, question.predictions
    matched = _find_partners(question, official)
    return make_pairs(_runs(truths), _runs(predictions), matched)


def choose_points(official: bool) -> Tensor:
    """Points that the masks of a question are compared at, (POINTS, 2); official ones are new."""
    return draw_points(POINTS, seed=randbits(62)) if official else _fixed_points()


def count_question(question: Question) -> MaskCount:
    """The masks of one question."""
    return MaskCount(question.gold.image, len(question.truths), len(question.predictions))


def count_masks(counts: Iterable[MaskCount]) -> int:
    """What the official gIoU is divided by: max(predictions, truths) of each image, summed up.

    Args:
        counts: of all questions of each image that take part.
    """
    truths, predictions = Counter[str](), Counter[str]()
    for each in counts:
        truths[each.image] += each.truths
        predictions[each.image] += each.predictions
    return sum(max(count, predictions[image]) for image, count in truths.items())


def _iou(pair: Pair) -> float:
    return pair.both / (pair.either + 1e-5) if pair.either else 1.0


def _find_partners(question: Question, official: bool) -> list[tuple[int, int]]:
    truths, predictions = question.truths, question.predictions
    if not truths or not predictions:
        return []
    if len(truths) == len(predictions) == 1:  # whatever it costs
        return [(0, 0)]
    size = predictions[0].runs.size
    places = find_places(choose_points(official), size) if official else _fixed_places(size)
    return assign(compute_costs(_runs(truths), _runs(predictions), places))


def compute_costs(
    truths: Sequence[RunMask], predictions: Sequence[RunMask], places: Places
) -> Tensor:
    """BCE plus Dice of every prediction with every truth, (P, T) float32."""
    # beyond the border `grid_sample` finds logits of 0, and not of -LOGIT
    logits = LOGIT * (2 * sample_masks(predictions, places) - places.weights.sum(0))
    true = sample_masks(truths, places)
    return compare_points(torch.from_numpy(logits), torch.from_numpy(true))


def _runs(masks: Sequence[Mask]) -> list[RunMask]:
    return [each.runs for each in masks]


@cache
def _fixed_points() -> Tensor:
    return draw_points(POINTS, seed=0)


@lru_cache(SIZES)
def _fixed_places(size: tuple[int, int]) -> Places:
    return find_places(_fixed_points(), size)
