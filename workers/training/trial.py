r"""One worker's share of an evaluation: questions are asked as labelling asks them, and scored.

    weights as they are -> a whole model -> engine -> answers -> rows -> sums
                                       \-> losses                   \-> cards of a page

The model is another one than the one that learns, so nothing of that is touched: not its mode, and
no random number is drawn.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from pixellm.answers import Answer
from pixellm.checkpoints import Checkpoint, empty_model, official_state
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from pixellm.images import PreparedImage, prepare_image
from pixellm.losses import LossWeights
from pixellm.model import PixelLM
from pixellm.training import training_losses
from pixellm.tuning import TunedModel, Whole
from workers.labels.rows import Attempt, Provenance, answer_row
from workers.labels.schema import LabelRow
from workers.records.instructions import Instruction
from workers.records.pictures import Picture, PictureLimits
from workers.records.record import Record
from workers.scoring.bucket import score_pairs
from workers.scoring.entries import Entry, make_entry
from workers.scoring.measures import MaskProblem, make_question
from workers.scoring.options import ScoringOptions
from workers.scoring.sums import Scored
from workers.storage.objects import Store
from workers.training.batches import BatchMaker
from workers.training.examples import Skipped
from workers.training.held_out import Gold
from workers.training.learner import to_device
from workers.training.ordering import Order
from workers.training.pages import ShownRow, show_row
from workers.training.pictures import Pictures

IMAGES_AT_ONCE = 32
"""Whose questions the engine has at once; some 80 MB of pixels at the released size."""
LOSS_ROWS = 4
"""Rows of a batch whose losses are computed: without gradients, less than one that is learned."""
SCORING = ScoringOptions(muse="off")
_ATTEMPT = Attempt(
    Provenance("", "", "", None, "", "", "", ""), "", 1, datetime.fromtimestamp(0, UTC)
)
"""Rows need one; nothing that is scored depends on it."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What one worker found."""

    scored: Scored
    loss: float
    """summed up over rows"""
    rows: int
    left_out: Counter[str]
    """rows whose picture can't be had, by reason"""
    shown: tuple[ShownRow, ...]

    @classmethod
    def total(cls, parts: Sequence["Tried"]) -> "Tried":
        """What all of them found."""
        return cls(
            Scored.total([part.scored for part in parts]),
            sum(part.loss for part in parts),
            sum(part.rows for part in parts),
            sum((part.left_out for part in parts), Counter[str]()),
            tuple(each for part in parts for each in part.shown),
        )


@torch.no_grad()
def merge_weights(tuned: TunedModel, whole: Whole, dtype: torch.dtype) -> PixelLM:
    """A model of its own with the weights as they are now; all workers must ask.

    Args:
        tuned: stays as it is.
        whole: gathers a weight of which each worker holds a part.
        dtype: of the new one.
    """
    model = empty_model(tuned.model.config, dtype=dtype, device=tuned.model.device)
    state = official_state(model)
    for name, value in tuned.merged_state(whole):
        state[name].copy_(value)
    return model.eval()


@dataclass(frozen=True, slots=True)
class _Opened:
    """An image that is there, and what is asked about it."""

    golds: Sequence[Gold]
    picture: Picture
    image: PreparedImage
    """of the picture"""


class Trial:
    """Asks one model.

    Args:
        checkpoint: the model, and the tokenizer.
        store: where the pictures lie.
        losses: weights of the parts of the loss.
        order: in which masks are compared that no word tells apart, as in training.
        shown: item ids of the rows that come into the page.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        store: Store,
        losses: LossWeights,
        order: Order,
        shown: Collection[str],
    ) -> None:
        self._model, self._losses, self._shown = checkpoint.model, losses, shown
        self._engine = Engine(checkpoint)
        self._pictures = Pictures(store, PictureLimits())
        config, tokenizer = checkpoint.model.config, checkpoint.tokenizer
        self._maker = BatchMaker.for_model(config, tokenizer, store, order=order)

    def try_images(self, images: Sequence[Sequence[Gold]]) -> Tried:
        """Asks about all images, scores the answers, and computes losses.

        Args:
            images: the rows of each.

        Raises:
            StorageError: the store failed.
        """
        parts = [
            self._try(images[at : at + IMAGES_AT_ONCE])
            for at in range(0, len(images), IMAGES_AT_ONCE)
        ]
        return Tried.total(parts)

    def _try(self, images: Sequence[Sequence[Gold]]) -> Tried:
        left_out, opened = Counter[str](), list[_Opened]()
        for golds in images:
            picture = self._pictures.open(golds[0].conversation.example)
            if isinstance(picture, Skipped):
                left_out[picture.reason] += len(golds)
            else:
                image = prepare_image(picture.rgb, self._model.config.image_side)
                opened.append(_Opened(golds, picture, image))
        pairs, shown = list[tuple[Entry, Entry | None]](), list[ShownRow]()
        for gold, picture, answer in self._ask(opened):
            said = write_row(gold, picture, answer) if answer else None
            pair = make_entry(gold.row), make_entry(said) if said else None
            pairs.append(pair)
            if gold.row.item_id in self._shown:
                shown.append(show_row(gold.row, said, picture.rgb, _find_iou(*pair)))
        return Tried(
            score_pairs(pairs, SCORING, Counter()).scored,
            sum(map(self._sum_losses, opened)),
            len(pairs),
            left_out,
            tuple(shown),
        )

    def _ask(self, opened: Sequence[_Opened]) -> Iterator[tuple[Gold, Picture, Answer | None]]:
        """Each row with its answer; None where the model has none."""
        jobs = [
            self._engine.add(Sample(each.image, tuple(gold.row.instruction for gold in each.golds)))
            for each in opened
        ]
        while self._engine.busy:
            self._engine.step()
        for each, job in zip(opened, jobs, strict=True):
            for gold, row in zip(each.golds, job.rows, strict=True):
                yield gold, each.picture, row.answer

    @torch.no_grad()
    def _sum_losses(self, opened: _Opened) -> float:
        """The loss of each row of an image, added up."""
        total, talks = 0.0, [gold.conversation for gold in opened.golds]
        image = {talks[0].example.picture_key: opened.image}
        for at in range(0, len(talks), LOSS_ROWS):
            places = range(at, min(at + LOSS_ROWS, len(talks)))
            made = self._maker.make(talks, places, opened=image).batch
            batch = to_device(made, self._model.device)
            losses = training_losses(self._model, batch, self._losses)
            total += len(places) * float(losses.total)
        return total


def write_row(gold: Gold, picture: Picture, answer: Answer) -> LabelRow:
    """What labelling would write into the table for this answer."""
    row = gold.row
    asked = Instruction(
        row.instruction_id, row.instruction, row.instruction_kind, row.requested_classes or ()
    )
    record = Record(0, None, gold.conversation.example.image, (asked,), None, None)
    return answer_row(record, picture.facts(), answer, _ATTEMPT, 0.0)


def _find_iou(gold: Entry, said: Entry | None) -> float | None:
    """Mean over the pairs of one row; of none, 1 where rightly nothing was said."""
    try:
        question = make_question(gold, said)
    except MaskProblem:
        return None
    if not question.pairs:
        return question.union_iou
    return sum(pair.iou for pair in question.pairs) / len(question.pairs)
