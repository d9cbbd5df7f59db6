"""The phrases of questions, judged: does what a mask is called name the true object?"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from workers.scoring.judge import ACCEPTED, Judge, Phrases
from workers.scoring.measures import Question
from workers.scoring.pairs import Pair
from workers.scoring.sums import Names

UNJUDGED = "pairs of phrases that the judge had no number for: counted as wrong"


def judge_names(questions: Sequence[Question], judge: Judge, told: Counter[str]) -> list[Names]:
    """Judges the phrases of pairs of masks that overlap.

    Args:
        questions: that are scored together.
        judge: is asked once.
        told: gets the count of what it had no answer to.

    Raises:
        ScoringError: the judge does not answer.
    """
    overlapping = (pair for question in questions for _, pair in _named_pairs(question))
    asked = list(dict.fromkeys(pair for pair in overlapping if pair is not None))
    worth = dict(zip(asked, judge.judge(asked), strict=True))
    told[UNJUDGED] += sum(each is None for each in worth.values())
    return [_sum_up(question, worth) for question in questions]


def _sum_up(question: Question, worth: Mapping[Phrases, float | None]) -> Names:
    judged = accepted = 0
    named_iou = sum(pair.iou for pair in question.pairs if _true_name(question, pair) is None)
    for pair, phrases in _named_pairs(question):
        is_right = phrases is not None and (worth[phrases] or 0.0) > ACCEPTED
        judged += pair.is_hit
        accepted += pair.is_hit and is_right
        named_iou += pair.iou * is_right
    return Names(judged=judged, accepted=accepted, named_iou=named_iou)


def _named_pairs(question: Question) -> Iterator[tuple[Pair, Phrases | None]]:
    """The overlapping pairs whose truth has a name; without phrases where the prediction has none.

    Those that don't overlap add nothing to any measure, whatever they are called.
    """
    for pair in question.pairs:
        true = _true_name(question, pair)
        if true is not None and pair.prediction is not None and pair.iou:
            said = question.predictions[pair.prediction].target.name
            yield pair, Phrases(true, said) if said is not None else None


def _true_name(question: Question, pair: Pair) -> str | None:
    return None if pair.truth is None else question.truths[pair.truth].target.name
