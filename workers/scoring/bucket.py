"""One bucket of questions -> its sums: a screen that holds the whole way of a question.

entries -> question -> pairs -> detections, names, MUSE's pairs -> sums, by group
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from workers.scoring.ap import look_at
from workers.scoring.entries import Entry
from workers.scoring.fitting import RawScores, take_raw
from workers.scoring.join import Block, read_bucket
from workers.scoring.judge import Judge
from workers.scoring.measures import MaskProblem, Question, make_question
from workers.scoring.model_judge import make_judge
from workers.scoring.muse import MaskCount, count_masks, count_question, match_question
from workers.scoring.names import judge_names
from workers.scoring.options import ScoringOptions
from workers.scoring.sums import Scored, ScoreSums, groups_of, sum_up

AT_ONCE = 256
"""Questions whose masks are held decoded: some 20 MB, and enough to keep a judge busy."""
IN_REGIONS = "predictions that lie in ignore regions"


@dataclass(frozen=True, slots=True)
class Buckets:
    """What all buckets have in common."""

    blocks: tuple[Block, ...]
    """of both tables, in the order of their parts"""
    options: ScoringOptions


@dataclass(frozen=True, slots=True)
class ScoredBucket:
    """What came out of one bucket."""

    scored: Scored
    raw: RawScores


def score_bucket(bucket: int, task: Buckets) -> ScoredBucket:
    """Scores the questions of one bucket.

    Raises:
        ScoringError: the judge doesn't answer.
        StorageError: a block can't be read.
    """
    told = Counter[str]()
    return score_pairs(read_bucket(task.blocks, bucket, told), task.options, told)


def score_pairs(
    pairs: Iterable[tuple[Entry, Entry | None]], options: ScoringOptions, told: Counter[str]
) -> ScoredBucket:
    """Scores what was said beside what is true, a question each.

    Args:
        pairs: gold entries, each with its prediction, or None where there is none.
        options: how.
        told: counts of what was left out so far; it goes on counting, and is part of the result.

    Raises:
        ScoringError: the judge doesn't answer.
    """
    found = defaultdict[str, list[ScoreSums]](list)
    counts = defaultdict[str, list[MaskCount]](list)
    raw, judge = list[RawScores](), make_judge(options.judge_url, options.judge_model)
    for some in _in_batches(_make_questions(pairs, told)):
        for question, sums in zip(some, _score(some, options, judge, told), strict=True):
            for group in groups_of(question):
                found[group].append(sums)
                counts[group].append(count_question(question))
        if options.raw_score:
            raw.append(take_raw(some, options.raw_score))
    groups = {group: ScoreSums.total(each) for group, each in found.items()}
    if options.muse == "official":
        groups = {
            group: replace(sums, muse_masks=count_masks(counts[group]))
            for group, sums in groups.items()
        }
    return ScoredBucket(Scored(groups, told), RawScores.total(raw))


def _score(
    questions: Sequence[Question], options: ScoringOptions, judge: Judge, told: Counter[str]
) -> Iterator[ScoreSums]:
    """The sums of each question."""
    names = judge_names(questions, judge, told)
    for question, found, named in zip(questions, look_at(questions), names, strict=True):
        told[IN_REGIONS] += question.left_out
        is_official = options.muse == "official"
        matched = None if options.muse == "off" else match_question(question, is_official)
        yield sum_up(question, found, named, matched)


def _make_questions(
    pairs: Iterable[tuple[Entry, Entry | None]], told: Counter[str]
) -> Iterator[Question]:
    """Those whose gold is sound; where what was predicted is not, nothing was."""
    for gold, said in pairs:
        try:
            yield make_question(gold, said)
        except MaskProblem as problem:
            told[f"{problem}"] += 1
            if problem.side == "predicted":
                yield make_question(gold, None)


def _in_batches(questions: Iterator[Question]) -> Iterator[list[Question]]:
    while some := list(islice(questions, AT_ONCE)):
        yield some
