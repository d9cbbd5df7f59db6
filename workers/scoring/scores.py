"""Sums of a group -> its scores, by the formulas that `workers.scoring.metrics` has in words."""

from workers.scoring.ap import average_precision
from workers.scoring.metrics import METRICS, Scores
from workers.scoring.sums import ScoreSums


def score(sums: ScoreSums) -> Scores:
    """All the metrics of one group."""
    found = {**_score_masks(sums), **_score_targets(sums), **_score_answers(sums)}
    return {name: found[name] for name in METRICS}


def _score_masks(sums: ScoreSums) -> Scores:
    return {
        "giou": _share(sums.pair_iou, sums.pairs),
        "ciou": _share(sums.both, sums.either),
        "giou_union": _share(sums.union_iou, sums.questions),
        "ciou_union": _share(sums.union_both, sums.union_either),
        "target_iou": _share(sums.pair_iou, sums.truths),
        "muse_giou": _share(sums.muse_iou, sums.muse_masks),
        # as it is written in the specification, 1e-10 and all
        "muse_ciou": sums.muse_both / (sums.muse_either + 1e-10) if sums.muse_pairs else None,
    }


def _score_targets(sums: ScoreSums) -> Scores:
    segments = (sums.truths + sums.predictions) / 2
    recognition, segmentation = _share(sums.hits, segments), _share(sums.hit_iou, sums.hits)
    curve = average_precision(sums.detections)
    return {
        "precision": _share(sums.hits, sums.predictions),
        "recall": _share(sums.hits, sums.truths),
        "f1": recognition,
        "pq": _share(sums.hit_iou, segments),
        "sq": segmentation,
        "rq": recognition,
        "ap": curve.ap,
        "ap50": curve.ap50,
        "ap75": curve.ap75,
        "ar": curve.ar,
    }


def _score_answers(sums: ScoreSums) -> Scores:
    return {
        "exact": _share(sums.exact, sums.questions),
        "nothing_accuracy": _share(sums.nothings_said, sums.nothings),
        "something_accuracy": _share(sums.somethings_said, sums.questions - sums.nothings),
        "phrase_accuracy": _share(sums.accepted, sums.judged),
        "giou_named": _share(sums.named_iou, sums.pairs),
        "answered": _share(sums.answered, sums.questions),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
