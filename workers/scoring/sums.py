"""Sums over questions: all that is reported is made of them, and sums of sums are sums.

So questions can be scored anywhere and in any order. What is told apart is a group: all questions,
those with few and with many targets, and those of each kind of instruction.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from workers.scoring.ap import Detections
from workers.scoring.measures import Question
from workers.scoring.muse import Matched

FEW = 3
"""Targets; more are many, as MUSE has it."""
ALL, NONE, FEW_TARGETS, MANY_TARGETS = "all", "no target", f"1 to {FEW} targets", "more targets"
FIXED_GROUPS = (ALL, NONE, FEW_TARGETS, MANY_TARGETS)
KIND = "kind: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a judge made of the phrases of one question."""

    judged: int = 0
    """truths that were found and have a name, and whose predictions' names were judged"""
    accepted: int = 0
    """of these, those with a right name"""
    named_iou: float = 0.0
    """IoUs of pairs, summed up; of those whose truth has a name, only where it was said"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSums:
    """Over some questions; without values, over none. Areas are in pixels."""

    questions: int = 0
    answered: int = 0
    """that have a prediction which says anything"""
    exact: int = 0
    """every target found, and nothing else said"""
    truths: int = 0
    predictions: int = 0
    hits: int = 0
    """truths that are found, and so are predictions that find one"""
    hit_iou: float = 0.0
    """of the hits"""
    pairs: int = 0
    """max(truths, predictions) of each question"""
    pair_iou: float = 0.0
    both: int = 0
    either: int = 0
    union_iou: float = 0.0
    """of questions: all truths as one mask, all predictions as one"""
    union_both: int = 0
    union_either: int = 0
    nothings: int = 0
    """questions that nothing matches"""
    nothings_said: int = 0
    """of these, those whose answer says so"""
    somethings_said: int = 0
    """of the others, those with a prediction"""
    judged: int = 0
    """see `Names`"""
    accepted: int = 0
    named_iou: float = 0.0
    muse_pairs: int = 0
    muse_masks: int = 0
    """what MUSE's gIoU is divided by"""
    muse_iou: float = 0.0
    muse_both: float = 0.0
    muse_either: float = 0.0
    detections: Detections = field(default_factory=Detections)

    @classmethod
    def total(cls, parts: Sequence["ScoreSums"]) -> "ScoreSums":
        """The sum of sums."""
        numbers = [each.name for each in fields(cls) if each.name != "detections"]
        return cls(
            **{name: sum(getattr(part, name) for part in parts) for name in numbers},
            detections=Detections.total([part.detections for part in parts]),
        )


def sum_up(
    question: Question, found: Detections, names: Names, matched: Matched | None
) -> ScoreSums:
    """The sums of one question.

    Args:
        question: with its masks.
        found: from `workers.scoring.ap.look_at`.
        names: what became of its phrases.
        matched: from `workers.scoring.muse`, or None where that is left out. In the official way
            `muse_masks` depends on the other questions of the image; here it is the pairs.
    """
    pairs, union = question.pairs, question.union
    hits = [pair for pair in pairs if pair.is_hit]
    is_nothing = not question.truths
    matched = matched or Matched(0.0, 0.0, 0.0, 0)
    return ScoreSums(
        questions=1,
        answered=question.answered,
        exact=question.is_exact,
        truths=len(question.truths),
        predictions=len(question.predictions),
        hits=len(hits),
        hit_iou=sum(pair.iou for pair in hits),
        pairs=len(pairs),
        pair_iou=sum(pair.iou for pair in pairs),
        both=sum(pair.both for pair in pairs),
        either=sum(pair.either for pair in pairs),
        union_iou=question.union_iou,
        union_both=union.both,
        union_either=union.either,
        nothings=is_nothing,
        nothings_said=is_nothing and question.says_nothing,
        somethings_said=not is_nothing and bool(question.predictions),
        judged=names.judged,
        accepted=names.accepted,
        named_iou=names.named_iou,
        muse_pairs=matched.pairs,
        muse_masks=matched.pairs,
        muse_iou=matched.iou,
        muse_both=matched.both,
        muse_either=matched.either,
        detections=found,
    )


def groups_of(question: Question) -> tuple[str, str, str]:
    """The groups that a question belongs to."""
    count = len(question.truths)
    size = NONE if not count else FEW_TARGETS if count <= FEW else MANY_TARGETS
    return ALL, size, f"{KIND}{question.gold.kind}"


@dataclass(frozen=True, slots=True)
class Scored:
    """What came out of some of the items."""

    groups: Mapping[str, ScoreSums]
    told: Mapping[str, int]
    """what was left out or missing, in words, with how often"""

    @classmethod
    def total(cls, parts: Iterable["Scored"]) -> "Scored":
        """The sum of all."""
        found, told = defaultdict[str, list[ScoreSums]](list), Counter[str]()
        for part in parts:
            told.update(part.told)
            for group, sums in part.groups.items():
                found[group].append(sums)
        return cls({group: ScoreSums.total(each) for group, each in found.items()}, told)
