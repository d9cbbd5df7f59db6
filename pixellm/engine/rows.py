"""What is asked, and how far each question is.

Shapes: B pictures, I image tokens, D channels of a map, G ids of an answer, S slots of a row, H
width of the language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pixellm.answers import Answer, TokenGroup
from pixellm.errors import InstructionError
from pixellm.images import PreparedImage
from pixellm.model import EncodedImages


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a question has no answer and never will."""

    message: str
    lacks_memory: bool = False
    """whether it would have one on a larger machine"""


NO_NUMBER = Failure("what the model computes for it is no number (an overflow?)")
"""Where something isn't finite."""


def too_large(why: str) -> Failure:
    """Of a question over which memory ran out though it was alone."""
    return Failure(f"it doesn't fit into memory, not even alone: {why}", lacks_memory=True)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and everything that is asked about it.

    Raises:
        InstructionError: the questions are a single text, or one of them is none.
    """

    image: PreparedImage
    questions: tuple[str, ...]
    """Cleaned texts (`pixellm.prompts.clean_instruction`)."""

    def __post_init__(self) -> None:
        if isinstance(self.questions, str):  # each of its letters would be asked
            raise InstructionError(
                f"questions must be a tuple of texts, not the text {self.questions!r}: write"
                f" ({self.questions!r},)"
            )
        for question in self.questions:
            if not isinstance(question, str) or not question:
                raise InstructionError(f"{question!r} is no question: write a text")


@dataclass(slots=True, eq=False)
class Picture:
    """An image, while a question about it has no answer yet."""

    image: PreparedImage | None = None
    """None where there is only what it was encoded to"""
    encoded: EncodedImages | None = None
    """of this image alone (B = 1), from when its first question enters, or a little before"""
    slot: int | None = None
    """where its prefix lies, while a row reads it"""
    readers: int = 0
    """rows under way that are about it"""

    @property
    def place(self) -> int:
        """The slot of a picture that is being read."""
        assert self.slot is not None, "it has a slot while a row reads it"
        return self.slot


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one question before its masks are made."""

    ids: tuple[int, ...]
    """New ids, with the end token when the answer ended by itself."""
    hidden: Tensor
    """(G, H): the state that predicted each id."""
    logprobs: tuple[float, ...]
    """Log-probability of each id."""
    groups: tuple[TokenGroup, ...]
    """One for each mask."""
    malformed: bool
    """Whether ids of the codebook were left over."""


@dataclass(slots=True, eq=False)
class Row:
    """One question on its way: waiting, under way, or waiting again since it had to make room.

    Slot s of a row holds token s of question and answer; the state there predicts token s + 1.
    """

    picture: Picture
    question: Sequence[int]
    """ids behind the image"""
    budget: int
    """most ids of the answer"""
    number: int
    """of rows that came before it"""
    ids: list[int] = field(default_factory=list)
    """the answer so far; the last of them may not have been read yet"""
    logprobs: list[float] = field(default_factory=list)
    """of the ids; those of a token group follow when it is read"""
    over: bool = False
    """whether no id comes any more; those of a token group may still have to be read"""
    read: int = 0
    """tokens of question and answer whose keys are in the row's slots"""
    generation: Generation | None = None
    """when it has ended"""
    answer: Answer | None = None
    """when its masks are made"""
    failure: Failure | None = None

    @property
    def most(self) -> int:
        """Ids that the answer may have by now."""
        return len(self.ids) if self.over else self.budget

    @property
    def ended(self) -> bool:
        """Whether all its ids have been said and read."""
        return self.over and len(self.logprobs) == len(self.ids)

    @property
    def made(self) -> Generation:
        """What a row that has ended has said."""
        assert self.generation is not None, "it has ended, and waits for its masks"
        return self.generation

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to do for it."""
        return self.answer is not None or self.failure is not None

    @property
    def length(self) -> int:
        """Tokens of question and answer so far."""
        return len(self.question) + len(self.ids)

    def unread(self) -> list[int]:
        """What the next step reads."""
        if self.read < len(self.question):
            return [*self.question[self.read :], *self.ids]
        return self.ids[self.read - len(self.question) :]

    def end(self, states: Tensor, groups: tuple[TokenGroup, ...], malformed: bool) -> None:
        """Takes along what masks are made of.

        Args:
            states: (S, H), what lies in the row's slots; they go to another row.
            groups: in the answer.
            malformed: whether ids of the codebook were left over.
        """
        first = len(self.question) - 1
        hidden = states[first : first + len(self.ids)].clone()
        ids, logprobs = tuple(self.ids), tuple(self.logprobs)
        self.generation = Generation(ids, hidden, logprobs, groups, malformed)


def split_images(images: EncodedImages) -> list[EncodedImages]:
    """A batch of encoded images, one by one."""
    parts = (images.tokens, images.token_valid, *images.maps)
    each = zip(*(part.split(1) for part in parts), strict=True)
    return [EncodedImages(tokens, valid, tuple(maps)) for tokens, valid, *maps in each]


def join_tokens(pictures: Sequence[Picture]) -> tuple[Tensor, Tensor]:
    """What the language model reads of some pictures: (B, I, H), and (B, I) for 0 on padding."""
    every = _encoded(pictures)
    return torch.cat([each.tokens for each in every]), torch.cat([e.token_valid for e in every])


def join_maps(pictures: Sequence[Picture]) -> tuple[Tensor, ...]:
    """What the pixel decoder reads of some pictures: per scale (B, D, h, w)."""
    scales = zip(*(each.maps for each in _encoded(pictures)), strict=True)
    return tuple(torch.cat(scale) for scale in scales)


def _encoded(pictures: Sequence[Picture]) -> list[EncodedImages]:
    every = [picture.encoded for picture in pictures if picture.encoded is not None]
    assert len(every) == len(pictures), "a picture is encoded when its first question enters"
    return every
