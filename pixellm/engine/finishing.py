"""Answers that have ended: their token groups become masks, and their ids an `Answer`.

Shapes: N targets, H language model width, S scales, K tokens per scale.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixellm.answers import Answer, Target, ids_within, render_answer
from pixellm.cutting import CutMask, cut_masks
from pixellm.engine.memory import try_in_memory
from pixellm.engine.rows import NO_NUMBER, Generation, Picture, Row, join_maps
from pixellm.model import PixelLM
from pixellm.phrases import find_phrases
from pixellm.tokenizer import Tokenizer
from pixellm.transfer import send

TARGETS_AT_ONCE = 64
"""Targets that the pixel decoder takes at once; what it needs of memory grows with them."""

TARGETS_ALIKE = 16
"""Targets are a multiple on a GPU, if memory allows: its libraries prepare for each number anew,
which takes longer than to decode them."""


@dataclass(frozen=True, slots=True)
class Found:
    """One token group of an answer that has ended."""

    picture: Picture
    states: Tensor
    """(S * K, H)"""


class Finisher:
    """Makes answers of generations."""

    def __init__(
        self, model: PixelLM, tokenizer: Tokenizer, encode: Callable[[Sequence[Picture]], None]
    ) -> None:
        self._model, self._tokenizer, self._encode = model, tokenizer, encode

    def finish(self, rows: Sequence[Row], at_once: int | None = None) -> dict[Row, str]:
        """Gives each row its answer; or the reason why there is none, where it is no number.

        Args:
            rows: whose masks are made together, or half as many where that does not fit.
            at_once: most targets that the decoder takes at once; None: TARGETS_AT_ONCE.

        Returns:
            The rows over which alone memory ran out, with what was said.
        """
        most = at_once or TARGETS_AT_ONCE
        why = try_in_memory(lambda: self._finish(rows, most))
        if why is None:
            return {}
        if half := len(rows) // 2:
            return self.finish(rows[:half], at_once) | self.finish(rows[half:], at_once)
        count = len(rows[0].made.groups)
        fewer = count if most > count else most // 2  # first without what only fills up a batch
        return self.finish(rows, fewer) if fewer else {rows[0]: why}

    def _finish(self, rows: Sequence[Row], at_once: int) -> None:
        found = [each for row in rows for each in _find(row)]
        masks = iter(self._make_masks(found, at_once))
        for row in rows:
            own = [next(masks) for _ in row.made.groups]
            if any(math.isnan(iou) for _, iou in own):
                row.failure = NO_NUMBER
            else:
                row.answer = self._write(row.made, own)

    def _make_masks(self, found: Sequence[Found], at_once: int) -> list[tuple[CutMask, float]]:
        """Each target's mask, and the decoder's guess of its IoU: nan where either is no number."""
        masks = list[tuple[CutMask, float]]()
        for start in range(0, len(found), at_once):
            chunk = found[start : start + at_once]
            filled = self._fill_up(chunk, at_once)
            pictures = list(dict.fromkeys(each.picture for each in chunk))
            # for want of memory what they were encoded to may have been let go
            self._encode([picture for picture in pictures if picture.encoded is None])
            place = {picture: at for at, picture in enumerate(pictures)}
            image_of = torch.tensor([place[each.picture] for each in filled])
            queries = self._model.codebook(torch.cat([each.states for each in filled]))
            low = self._model.decode(join_maps(pictures), queries, send(image_of, queries.device))
            low = low[: len(chunk)]
            cuts = self._cut(low.logits, [each.picture for each in chunk])
            sound = low.logits.isfinite().flatten(1).all(1) & low.iou.isfinite()
            iou = low.iou.float().masked_fill(~sound, math.nan)
            masks += zip(cuts, iou.tolist(), strict=True)
        return masks

    def _fill_up(self, found: Sequence[Found], at_once: int) -> Sequence[Found]:
        """On a GPU the first target again and again, until few numbers of them come up."""
        on_gpu = self._model.device.type == "cuda"
        spare = min(-len(found) % TARGETS_ALIKE, at_once - len(found)) if on_gpu else 0
        return [*found, *[found[0]] * spare]

    def _cut(self, low: Tensor, owners: Sequence[Picture]) -> list[CutMask]:
        """Masks in the frames of their images; those of images of one shape together."""
        shapes = defaultdict[tuple[tuple[int, int], tuple[int, int]], list[int]](list)
        for at, owner in enumerate(owners):
            assert owner.image is not None, "masks are made of images that were seen"
            shapes[owner.image.resized, owner.image.original].append(at)
        cuts = dict[int, CutMask]()
        for (resized, original), places in shapes.items():
            own = low if len(shapes) == 1 else low[send(torch.tensor(places), low.device)]
            made = cut_masks(own, resized, original, self._model.config.image_side)
            cuts |= zip(places, made, strict=True)
        return [cuts[at] for at in range(len(owners))]

    def _write(self, made: Generation, masks: Sequence[tuple[CutMask, float]]) -> Answer:
        text, marks, places = render_answer(made.ids, made.groups, self._tokenizer)
        spans = find_phrases(text, marks)
        targets = tuple(
            Target(
                index=index,
                phrase=None if span is None else text[slice(*span)],
                span=span,
                phrase_source="none" if span is None else "answer",
                runs=cut.runs,
                score_mask=cut.score,
                score_iou=iou,
                score_token=_probability(made, group.positions),
                score_phrase=None if span is None else _probability(made, ids_within(span, places)),
            )
            for index, (group, (cut, iou), span) in enumerate(
                zip(made.groups, masks, spans, strict=True)
            )
        )
        ended = made.ids[-1:] == (self._tokenizer.eos_id,)
        return Answer(text, made.ids, targets, made.malformed, truncated=not ended)


def _find(row: Row) -> Iterator[Found]:
    """The groups of an answer that has ended."""
    made = row.made
    for group in made.groups:
        # views, put together on the device: indices would have to be sent there, and waited for
        yield Found(row.picture, torch.stack([made.hidden[at] for at in group.positions]))


def _probability(made: Generation, positions: Sequence[int]) -> float:
    """Of some ids of an answer together, each after all that stands before it."""
    return math.exp(sum(made.logprobs[at] for at in positions))
