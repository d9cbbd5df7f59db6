"""A question with its true and its predicted masks, and what can be said about it.

Ignore regions are taken out of both first, so that their pixels count for nothing. A truth of which
nothing is left is none. A prediction that lay for more than half in them and hits nothing with the
rest is left out, as in panopticapi: it may be right, and nobody knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pixellm.run_lengths import RunMask
from workers.errors import ExportError
from workers.labels.rle import decode_runs
from workers.scoring.entries import Entry, EntryTarget
from workers.scoring.pairs import Pair, make_pairs, pair_up
from workers.scoring.regions import cut_out, join_masks

MOSTLY = 0.5
"""Of a prediction's pixels: one with more in ignore regions is left out, if it hits nothing."""


Side = Literal["gold", "predicted"]


class MaskProblem(Exception):  # noqa: N818 - it is counted, and no error of the program
    """A row that can't be compared. It is counted and told of, and never ends an evaluation.

    Args:
        side: whose row.
        what: it has, such as "a broken mask".
    """

    def __init__(self, side: Side, what: str) -> None:
        super().__init__(f"{side} rows with {what}")
        self.side = side


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask of a question, with ignore regions taken out."""

    target: EntryTarget
    runs: RunMask
    whole: RunMask
    """with them"""


@dataclass(frozen=True)
class Question:
    """What is true and what was said about one image and instruction."""

    gold: Entry
    said: Entry | None
    truths: tuple[Mask, ...]
    predictions: tuple[Mask, ...]
    ignored: RunMask | None
    """the ignore regions as one"""
    left_out: int
    """predictions, for their place in ignore regions"""

    @property
    def answered(self) -> bool:
        """Whether there is an answer that says anything, be it that nothing matches."""
        return self.said is not None and self.said.answered

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Matched ones, then truths without prediction, then predictions without truth."""
        return pair_up(
            [each.runs for each in self.truths], [each.runs for each in self.predictions]
        )

    @cached_property
    def union(self) -> Pair:
        """All truths as one mask beside all predictions as one mask."""
        truths, predictions = _join(self.truths), _join(self.predictions)
        if truths is None or predictions is None:
            area = (truths or predictions or RunMask.empty((0, 0))).area
            return Pair(0 if truths else None, 0 if predictions else None, 0, area)
        return make_pairs([truths], [predictions], [(0, 0)])[0]

    @property
    def union_iou(self) -> float:
        """Of `union`; where nothing matches, 1 if the answer says so and 0 otherwise."""
        if not self.truths and not self.predictions:
            return float(self.answered)
        return self.union.iou

    @property
    def says_nothing(self) -> bool:
        """Whether the answer is that nothing matches."""
        return self.answered and not self.predictions

    @property
    def is_exact(self) -> bool:
        """Whether every target is found and nothing else said."""
        if not self.truths:
            return self.says_nothing
        return all(pair.is_hit for pair in self.pairs)


def make_question(gold: Entry, said: Entry | None) -> Question:
    """Takes ignore regions out of what is true and what was predicted.

    Args:
        gold: what is true.
        said: what was predicted, or None: then nothing was.

    Raises:
        MaskProblem: a mask can't be compared, and whose row is to blame.
    """
    true = read_masks(gold, "gold")
    predicted = read_masks(said, "predicted") if said else []
    sizes = {mask.size for mask in (*true, *predicted)}
    if len(sizes) > 1:
        raise MaskProblem("predicted", "masks of another size than the gold ones")
    regions = [runs for each, runs in zip(gold.targets, true, strict=True) if each.ignored]
    ignored = join_masks(regions) if regions else None
    truths = [
        each
        for each in _cut_masks(gold, true, ignored)
        if each.runs.area or not each.whole.area  # one that lies in ignore regions is none
    ]
    given = _cut_masks(said, predicted, ignored) if said else []
    kept = [each for each in given if not _is_left_out(each, truths)]
    return Question(gold, said, tuple(truths), tuple(kept), ignored, len(given) - len(kept))


def read_masks(entry: Entry, side: Side) -> list[RunMask]:
    """The masks of a row, in the order of its targets.

    Raises:
        MaskProblem: one is broken, or they are of several sizes.
    """
    try:
        masks = [decode_runs(target.size, target.counts) for target in entry.targets]
    except ExportError as error:
        raise MaskProblem(side, "a broken mask") from error
    if len({mask.size for mask in masks}) > 1:
        raise MaskProblem(side, "masks of several sizes")
    return masks


def _join(masks: Sequence[Mask]) -> RunMask | None:
    return join_masks([each.runs for each in masks]) if masks else None


def _is_left_out(mask: Mask, truths: Sequence[Mask]) -> bool:
    if mask.whole.area - mask.runs.area <= MOSTLY * mask.whole.area:
        return False
    return not any(pair.is_hit for truth in truths for pair in pair_up([truth.runs], [mask.runs]))


def _cut_masks(entry: Entry, masks: Sequence[RunMask], ignored: RunMask | None) -> list[Mask]:
    return [
        Mask(target, cut_out(whole, ignored) if ignored else whole, whole)
        for target, whole in zip(entry.targets, masks, strict=True)
        if not target.ignored
    ]
