"""Questions about drawn scenes as rows of ids, with what the losses need to know about them.

Shapes: B images, P slots up to the end of the image, L slots behind it, Q questions, N targets.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pixellm.drawn.questions import GROUP, Question
from pixellm.prompts import IGNORE_INDEX, prompt_ids
from pixellm.tokenizer import IMAGE_TOKEN_INDEX, Tokenizer


@dataclass(frozen=True, slots=True)
class Packed:
    """All conversations about each image, one behind the other, padded on the right."""

    ids: Tensor
    """(B, L) long."""
    row: Tensor
    """(B, L) long: which of the image's conversations a slot belongs to, -1 on padding."""
    place: Tensor
    """(B, L) long: place in its conversation, from 0 behind the image."""
    predicts: Tensor
    """(B, L) long: the answer's id that each slot predicts, or IGNORE_INDEX."""
    asked_at: Tensor
    """(Q, 2) long: image and slot of the last id of each question."""
    target_of: Tensor
    """(N,) long: the question of each target, as an index into `asked_at`."""
    thing: Tensor
    """(N,) long: flattened index of the target among the batch's things."""
    group_at: Tensor
    """(N, 2) long: image and slot that predicts the target's first codebook token."""
    after_at: Tensor
    """(N, 2) long: image and slot that predicts what follows the target's last codebook token."""
    anchored: Tensor
    """(A,) long: the questions that refer to a thing, as indices into `asked_at`."""
    anchor: Tensor
    """(A,) long: flattened index of that thing."""

    def to(self, device: torch.device) -> "Packed":
        """The same on a device."""
        return Packed(**{each.name: getattr(self, each.name).to(device) for each in fields(self)})

    def visible(self, shown: Tensor) -> Tensor:
        """(B, P) bool of the prefix -> (B, P + L, P + L) bool.

        Each conversation sees its own past, and what is shown of the prefix.
        """
        row = F.pad(self.row, (shown.shape[1], 0), value=-2)
        past = torch.ones(row.shape[1], row.shape[1], dtype=torch.bool, device=row.device).tril()
        keys = F.pad(shown, (0, self.row.shape[1]), value=False)[:, None]
        itself = torch.eye(row.shape[1], dtype=torch.bool, device=row.device)
        return past & ((row[:, None] == row[:, :, None]) & (row[:, None] != -2) | keys | itself)

    def positions(self, prefix: int) -> Tensor:
        """(B, P + L) long: every conversation counts on from the prefix."""
        shared = torch.arange(prefix, device=self.place.device).expand(len(self.ids), -1)
        return torch.cat([shared, self.place + prefix], dim=1)


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation behind its image."""

    ids: list[int]
    asked_at: int
    """Index of the question's last id."""
    groups: list[int]
    """Index that predicts the first codebook token of each group."""

    def predicts(self) -> list[int]:
        """The answer's id that each index predicts, or IGNORE_INDEX."""
        return [IGNORE_INDEX] * self.asked_at + self.ids[self.asked_at + 1 :] + [IGNORE_INDEX]


class Conversations:
    """Encodes questions with one tokenizer. Parts of texts are remembered: they recur a lot."""

    def __init__(self, tokenizer: Tokenizer, system: str = "") -> None:
        self.tokenizer = tokenizer
        self._text = lru_cache(maxsize=100_000)(partial(tokenizer.encode, bos=False))
        self._prompt = lru_cache(maxsize=100_000)(partial(prompt_ids, tokenizer, system=system))

    def head(self) -> list[int]:
        """Ids before the image."""
        ids = self._prompt("x")
        return ids[: ids.index(IMAGE_TOKEN_INDEX)]

    def row(self, question: Question) -> Row:
        """Encodes one question and its answer."""
        prompt = self._prompt(question.text)
        ids = list(prompt[prompt.index(IMAGE_TOKEN_INDEX) + 1 :])
        asked_at = len(ids) - 1
        groups = []
        pieces = question.answer.split(GROUP)
        for piece in pieces[:-1]:
            ids += self._text(piece.strip())
            groups.append(len(ids) - 1)
            ids += self.tokenizer.seg_ids
        ids += self._text(pieces[-1].strip())
        ids.append(self.tokenizer.eos_id)
        return Row(ids, asked_at, groups)

    def pack(self, questions: Sequence[Sequence[Question]], first: Sequence[int]) -> Packed:
        """Encodes the questions of each image.

        Args:
            questions: per image.
            first: index of each image's first thing among all things of the batch.
        """
        lines = [[self.row(question) for question in asks] for asks in questions]
        asked = list(_find_places(lines, questions))
        group_at = [(each.image, each.start + at) for each in asked for at in each.row.groups]
        anchors = [
            (number, first[each.image] + each.question.anchor)
            for number, each in enumerate(asked)
            if each.question.anchor is not None
        ]
        return Packed(
            ids=_pad([[each for row in line for each in row.ids] for line in lines], 0),
            row=_pad([[n for n, row in enumerate(line) for _ in row.ids] for line in lines], -1),
            place=_pad([[at for row in line for at in range(len(row.ids))] for line in lines], 0),
            predicts=_pad(
                [[each for row in line for each in row.predicts()] for line in lines], IGNORE_INDEX
            ),
            asked_at=_pairs([(each.image, each.start + each.row.asked_at) for each in asked]),
            target_of=_indices(n for n, each in enumerate(asked) for _ in each.row.groups),
            thing=_indices(first[each.image] + t for each in asked for t in each.question.targets),
            group_at=_pairs(group_at),
            after_at=_pairs([(image, at + len(self.tokenizer.seg_ids)) for image, at in group_at]),
            anchored=_indices(number for number, _ in anchors),
            anchor=_indices(thing for _, thing in anchors),
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question at its place in a batch."""

    image: int
    start: int
    """Slot of its first id."""
    row: Row
    question: Question


def _find_places(
    lines: Sequence[Sequence[Row]], questions: Sequence[Sequence[Question]]
) -> Iterator[_Asked]:
    for image, (line, asks) in enumerate(zip(lines, questions, strict=True)):
        start = 0
        for row, question in zip(line, asks, strict=True):
            yield _Asked(image, start, row, question)
            start += len(row.ids)


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    lines = [torch.tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=value)


def _indices(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.long)


def _pairs(values: Sequence[tuple[int, int]]) -> Tensor:
    return torch.tensor(values, dtype=torch.long).reshape(-1, 2)
