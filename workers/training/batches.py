"""Examples -> a batch that the model learns from: pictures, conversations and masks as tensors.

An example whose picture can't be had is passed over, and the next one of its pool that can be had
stands in for it. A pool is sorted by length, so that one is about as long; and since the pool is
the same on every worker, so is the stand-in, whoever meets the gap and whenever.

Shapes: B images, R rows, L ids of a row; n_i masks of image i, h0 and w0 its original size.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pixellm.config import PixelLMConfig
from pixellm.images import PreparedImage, prepare_image
from pixellm.prompts import system_text
from pixellm.run_lengths import RunMask
from pixellm.tokenizer import Tokenizer
from pixellm.training import TrainingBatch, pad_conversations
from workers.errors import SettingsError
from workers.records.pictures import PictureLimits
from workers.storage.objects import Store
from workers.storage.uris import shown
from workers.training.conversations import Conversation, Writer, most_ids
from workers.training.examples import Example, PictureKey, Skipped
from workers.training.ordering import Order, from_left
from workers.training.pictures import Pictures
from workers.training.views import WHOLE, View, Views, Window

TRIES = 32
"""Examples of a pool that are tried for one place. As many gone in a row are no bad files, but a
folder that was moved."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What is not given to the model."""

    max_ids: int
    """of a conversation, the image counted as one; longer ones are passed over, not cut"""
    pictures: PictureLimits = field(default_factory=PictureLimits)


@dataclass(frozen=True, slots=True, eq=False)
class MadeBatch:
    """A batch, and what was passed over to make it."""

    batch: TrainingBatch
    skipped: Counter[str]
    """examples whose picture can't be had, by reason; stand-ins that failed are not counted"""


_Seen = dict[tuple[PictureKey, Window], PreparedImage | Skipped]
"""Pictures of a batch, and what is seen of them."""


@dataclass(frozen=True, slots=True)
class _Row:
    """An example whose picture is there."""

    conversation: Conversation
    image: PreparedImage
    view: View


class BatchMaker:
    """Makes batches for one model; safe to share between threads.

    Args:
        tokenizer: of the model.
        image_side: pixels per side of the model's input.
        system: what stands before "USER:".
        store: where the images lie.
        limits: what is not given to the model.
        views: how pictures are seen.
        order: of masks that no word of their answer tells apart.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_side: int,
        system: str,
        store: Store,
        limits: BatchLimits,
        views: Views | None = None,
        order: Order = "as-labelled",
    ) -> None:
        self._writer = Writer(tokenizer, system, limits.max_ids)
        self._pictures = Pictures(store, limits.pictures)
        self._image_side, self._seg_ids = image_side, tokenizer.seg_ids
        self._views, self._order = views or Views(), order

    @classmethod
    def for_model(
        cls,
        config: PixelLMConfig,
        tokenizer: Tokenizer,
        store: Store,
        pictures: PictureLimits | None = None,
        views: Views | None = None,
        order: Order = "as-labelled",
    ) -> "BatchMaker":
        """A maker with the model's own sizes."""
        limits = BatchLimits(most_ids(config), pictures or PictureLimits())
        system = system_text(config.system_text)
        return cls(tokenizer, config.image_side, system, store, limits, views, order)

    def encode(self, example: Example) -> Conversation | Skipped:
        """The ids of an example, or why it has none; its picture is not looked at."""
        return self._writer.write(example)

    def make(
        self,
        pool: Sequence[Conversation],
        places: Iterable[int],
        when: int = 0,
        opened: Mapping[PictureKey, PreparedImage] | None = None,
    ) -> MadeBatch:
        """Makes a batch of some rows of a pool.

        Args:
            pool: what stands in where a picture can't be had, from the place on, and round.
            places: of the batch's rows in the pool, at least one.
            when: another number for each step: pictures are seen otherwise then.
            opened: whole pictures that are there already.

        Raises:
            SettingsError: `TRIES` pictures in a row can't be had.
            StorageError: the store failed.
        """
        seen: _Seen = {(key, WHOLE): image for key, image in (opened or {}).items()}
        skipped = Counter[str]()
        rows = []
        for place in places:
            tries = [pool[(place + step) % len(pool)] for step in range(min(TRIES, len(pool)))]
            rows.append(self._fill(tries, seen, when, skipped))
        return MadeBatch(self._collate(rows), skipped)

    def _fill(
        self, tries: Sequence[Conversation], seen: _Seen, when: int, skipped: Counter[str]
    ) -> _Row:
        """The first row whose picture can be had; the first of all is counted, where it is not."""
        for each in tries:
            view = self._views.draw(each.example, when)
            image = self._open(each.example, view, seen)
            if isinstance(image, PreparedImage):
                return _Row(each, image, view)
            if each is tries[0]:
                skipped[image.reason] += 1
        raise SettingsError(
            f"{len(tries)} pictures in a row can't be had, {shown(tries[0].example.image.uri)} for"
            " one. Were they moved since they were labelled?"
        )

    def _open(self, example: Example, view: View, seen: _Seen) -> PreparedImage | Skipped:
        """Fetches, decodes and resizes what is seen of a picture, once for a batch.

        The full picture lives no longer: with two windows of it in a batch, it is fetched twice.
        """
        key = example.picture_key, view.window
        if key not in seen:
            picture = self._pictures.open(example)
            seen[key] = (
                picture
                if isinstance(picture, Skipped)
                else prepare_image(view.cut(picture.rgb), self._image_side)
            )
        return seen[key]

    def _collate(self, rows: Sequence[_Row]) -> TrainingBatch:
        """Rows about one picture share it, if they see it alike, and stand in its order."""
        groups: dict[tuple[str, View], list[_Row]] = {}
        for row in rows:
            key = row.conversation.example.image_sha256, row.view
            groups.setdefault(key, []).append(row)
        views = [view for _, view in groups]
        images = [
            view.of(group[0].image) for view, group in zip(views, groups.values(), strict=True)
        ]
        talks = [[row.conversation for row in group] for group in groups.values()]
        ids, labels, text_valid = pad_conversations([each.ids for group in talks for each in group])
        examples = [[each.example for each in group] for group in talks]
        unsure = any(each.ignored for group in examples for each in group)
        return TrainingBatch(
            pixels=torch.stack([image.pixels for image in images]),
            resized=tuple(image.resized for image in images),
            ids=ids,
            labels=labels,
            text_valid=text_valid,
            image_of=torch.tensor([at for at, group in enumerate(talks) for _ in group]),
            seg_ids=self._seg_ids,
            masks=tuple(map(self._stack_masks, examples, views)),
            ignored=tuple(map(_stack_ignored, examples, views)) if unsure else (),
            names=tuple(each.item_id for group in examples for each in group),
        )

    def _stack_masks(self, examples: Sequence[Example], view: View) -> Tensor:
        """The masks of one image's examples, in the order of their marks: (n_i, h0, w0) bool."""
        return torch.cat([self._put_in_order(each, view) for each in examples])

    def _put_in_order(self, example: Example, view: View) -> Tensor:
        masks = view.move(_stack(example.masks, example.size))
        is_free = example.alike and self._order == "left-to-right"
        return from_left(masks) if is_free else masks


def _stack_ignored(examples: Sequence[Example], view: View) -> Tensor:
    """What is unsure about each of these masks: (n_i, h0, w0) bool."""
    of_each = [_stack(each.ignored, each.size).any(0) for each in examples]
    counts = torch.tensor([len(each.masks) for each in examples])
    return view.move(torch.stack(of_each).repeat_interleave(counts, 0))


def _stack(masks: Sequence[RunMask], size: tuple[int, int]) -> Tensor:
    """(n, h, w) bool, n may be 0."""
    pixels = np.empty((len(masks), *size), dtype=np.bool_)
    for at, mask in enumerate(masks):
        pixels[at] = mask.pixels()
    return torch.from_numpy(pixels)
