"""Questions about drawn scenes as rows of ids, with what the losses need to know about them.

Shapes: B images, P slots up to the end of the image, L slots behind it, Q questions, N targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pixellm.drawn.questions import GROUP, Question
from pixellm.prompts import IGNORE_INDEX, render_prompt
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

    def visible(self, shown: Tensor) -> Tensor:
        """(B, P) bool of the prefix -> (B, P + L, P + L) bool.

        Each conversation sees its own past, and what is shown of the prefix.
        """
        row = F.pad(self.row, (shown.shape[1], 0), value=-2)
        past = torch.ones(row.shape[1], row.shape[1], dtype=torch.bool).tril()
        keys = F.pad(shown, (0, self.row.shape[1]), value=False)[:, None]
        itself = torch.eye(row.shape[1], dtype=torch.bool)
        return past & ((row[:, None] == row[:, :, None]) & (row[:, None] != -2) | keys | itself)

    def positions(self, prefix: int) -> Tensor:
        """(B, P + L) long: every conversation counts on from the prefix."""
        shared = torch.arange(prefix).expand(len(self.ids), -1)
        return torch.cat([shared, self.place + prefix], dim=1)


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation behind its image."""

    ids: list[int]
    asked_at: int
    """Index of the question's last id."""
    groups: list[int]
    """Index that predicts the first codebook token of each group."""


class Conversations:
    """Encodes questions with one tokenizer. Parts of texts are remembered: they recur a lot."""

    def __init__(self, tokenizer: Tokenizer, system: str = "") -> None:
        self.tokenizer, self.system = tokenizer, system
        self._text = lru_cache(maxsize=100_000)(self._encode)
        self._prompt = lru_cache(maxsize=100_000)(self._encode_prompt)

    def head(self) -> list[int]:
        """Ids before the image."""
        ids = self._encode_prompt("x")
        return ids[: ids.index(IMAGE_TOKEN_INDEX)]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, bos=False)

    def _encode_prompt(self, question: str) -> list[int]:
        return self.tokenizer.encode_prompt(render_prompt(question, self.system))

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
        ids, row_of, place, predicts = [], [], [], []
        asked: list[tuple[int, int]] = []
        target_of, thing, group_at, anchored, anchor = [], [], [], [], []
        for image, asks in enumerate(questions):
            line: list[int] = []
            rows: list[int] = []
            places: list[int] = []
            labels: list[int] = []
            for number, question in enumerate(asks):
                row, start = self.row(question), len(line)
                target_of += [len(asked)] * len(row.groups)
                if question.anchor is not None:
                    anchored.append(len(asked))
                    anchor.append(first[image] + question.anchor)
                asked.append((image, start + row.asked_at))
                thing += [first[image] + index for index in question.targets]
                group_at += [(image, start + at) for at in row.groups]
                line += row.ids
                rows += [number] * len(row.ids)
                places += range(len(row.ids))
                labels += (
                    [IGNORE_INDEX] * row.asked_at + row.ids[row.asked_at + 1 :] + [IGNORE_INDEX]
                )
            ids.append(line)
            row_of.append(rows)
            place.append(places)
            predicts.append(labels)
        return Packed(
            ids=_pad(ids, 0),
            row=_pad(row_of, -1),
            place=_pad(place, 0),
            predicts=_pad(predicts, IGNORE_INDEX),
            asked_at=_pairs(asked),
            target_of=torch.tensor(target_of, dtype=torch.long),
            thing=torch.tensor(thing, dtype=torch.long),
            group_at=_pairs(group_at),
            after_at=_pairs([(image, at + len(self.tokenizer.seg_ids)) for image, at in group_at]),
            anchored=torch.tensor(anchored, dtype=torch.long),
            anchor=torch.tensor(anchor, dtype=torch.long),
        )


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    lines = [torch.tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=value)


def _pairs(values: Sequence[tuple[int, int]]) -> Tensor:
    return torch.tensor(values, dtype=torch.long).reshape(-1, 2)
