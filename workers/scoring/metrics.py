"""The numbers that are reported, and that `--min` can ask for: what each is called and means."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One number from 0 to 1, where 1 is best."""

    title: str
    """for a table"""
    table: str
    """which table it stands in"""
    meaning: str


MASKS, TARGETS, ANSWERS = "Masks", "Targets", "Answers"
METRICS: Mapping[str, Metric] = {
    "giou": Metric("gIoU", MASKS, "mean IoU of pairs of masks; a missing or extra mask counts 0"),
    "ciou": Metric(
        "cIoU", MASKS, "all intersections of pairs over all unions: large things count more"
    ),
    "giou_union": Metric(
        "gIoU union",
        MASKS,
        "mean over questions of the IoU of all true with all predicted masks as one (as ReasonSeg"
        ' and MMR); a right "nothing matches" counts 1',
    ),
    "ciou_union": Metric("cIoU union", MASKS, "the same intersections over the same unions"),
    "target_iou": Metric(
        "target IoU", MASKS, "mean over true targets of the IoU of their predictions; missed: 0"
    ),
    "muse_giou": Metric("MUSE gIoU", MASKS, "gIoU by MUSE's protocol, see --muse"),
    "muse_ciou": Metric("MUSE cIoU", MASKS, "cIoU by MUSE's protocol"),
    "precision": Metric(
        "precision", TARGETS, "share of predictions that find a target: their IoU is above 0.5"
    ),
    "recall": Metric("recall", TARGETS, "share of targets that are found"),
    "f1": Metric("F1", TARGETS, "harmonic mean of precision and recall"),
    "pq": Metric("PQ", TARGETS, "panoptic quality: sq * rq"),
    "sq": Metric("SQ", TARGETS, "mean IoU of what is found"),
    "rq": Metric("RQ", TARGETS, "found, over the mean count of targets and predictions: F1"),
    "ap": Metric(
        "AP",
        TARGETS,
        "COCO's average precision over IoUs of 0.50 to 0.95, by pycocotools: predictions ranked by"
        " `score`, a question is an image with one category",
    ),
    "ap50": Metric("AP50", TARGETS, "the same at an IoU of 0.50"),
    "ap75": Metric("AP75", TARGETS, "the same at an IoU of 0.75"),
    "ar": Metric("AR", TARGETS, "COCO's average recall, with up to 100 predictions a question"),
    "exact": Metric(
        "exact", ANSWERS, "share of questions with every target found and nothing else said"
    ),
    "nothing_accuracy": Metric(
        "nothing", ANSWERS, "of questions that nothing matches, share whose answer says so"
    ),
    "something_accuracy": Metric(
        "something", ANSWERS, "of questions that something matches, share with any prediction"
    ),
    "phrase_accuracy": Metric(
        "phrases", ANSWERS, "of targets found, share whose phrase names them: the judge says > 0.5"
    ),
    "giou_named": Metric(
        "gIoU named", ANSWERS, "gIoU where a pair whose phrase does not name its target counts 0"
    ),
    "answered": Metric("answered", ANSWERS, "share of questions with an answer"),
}
"""By the name that `--min` and the JSON take."""

Scores = Mapping[str, float | None]
"""By the names of METRICS; None where there is nothing to take a share of."""
