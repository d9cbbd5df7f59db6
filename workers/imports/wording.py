"""How questions and answers are worded where a source has no words for them.

The forms are of the kinds that PixelLM was trained with. The official loader chooses at random
each time; here the choice is made of a digest of the question, so that the same source gives the
same table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from pixellm.answers import SEG_MARK
from pixellm.errors import InstructionError
from pixellm.phrases import Span
from pixellm.prompts import clean_instruction

NAME_FORM = "What is {} in this image? Please output segmentation mask."
"""How the official evaluation asks for what has a name."""
SENTENCE_FORM = "{}"
"""A sentence is asked as it stands."""
NOTHING = "There is no such object."
"""What the shipped model answers, too."""
_OF_ONE = (
    "It is {}.",
    "Sure, {}.",
    "Sure, it is {}.",
    "Sure, the segmentation result is {}.",
    "{}.",
)
_OF_SEVERAL = ("Sure, they are {}.", "{}.")
_NAMED = (
    "{names} are {marks}, separately.",
    "{names} are {marks}.",
    "Sure, {names} are {marks}.",
)


@dataclass(frozen=True, slots=True)
class Composed:
    """An answer that nobody wrote."""

    text: str
    names: tuple[str, ...]
    """of the targets, as they stand in the text"""
    spans: tuple[Span, ...]
    """where the names stand, in code points"""


def choose(seed: str, count: int) -> int:
    """A number below `count`, always the same for a text."""
    return int.from_bytes(sha256(seed.encode("utf-8", "replace")).digest()[:8]) % count


def word_name(name: str) -> str:
    """A category's name as it is asked for: names that come out the same are one question.

    Cleaned as the instruction will be, of which `item_id` is made.
    """
    try:
        return clean_instruction(name.lower())
    except InstructionError:  # the question is refused, with this as its reason
        return name.lower()


def enumerate_words(words: Sequence[str]) -> str:
    """Joins words: "a, b and c"."""
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), *words[-1:]])


def compose_unnamed(count: int, seed: str) -> str:
    """An answer to a question that names what is looked for already."""
    if count == 0:
        return NOTHING
    forms = _OF_ONE if count == 1 else _OF_SEVERAL
    return forms[choose(seed, len(forms))].format(enumerate_words([SEG_MARK] * count))


def compose_marks(count: int) -> str:
    """The answer to a question that names several things, which the evaluation uses."""
    return enumerate_words([SEG_MARK] * count) + "."


def compose_named(names: Sequence[str], seed: str) -> Composed:
    """An answer that says what each target is called: one by one, or all names and then all marks.

    Of one target always the first: "the cat are [SEG], separately." teaches nobody anything.
    """
    if not names:
        return Composed(NOTHING, (), ())
    if len(names) == 1 or choose(f"{seed}\nway", 2):
        return _place(enumerate_words([f"{{}} is {SEG_MARK}"] * len(names)) + ".", names)
    form = _NAMED[choose(f"{seed}\nform", len(_NAMED))]
    marks, places = enumerate_words([SEG_MARK] * len(names)), enumerate_words(["{}"] * len(names))
    return _place(form.format(names=places, marks=marks), [name.lower() for name in names])


def _place(form: str, names: Sequence[str]) -> Composed:
    """Puts the names into a form, which has `{}` for each."""
    text, spans = "", []
    for between, name in zip(form.split("{}"), [*names, ""], strict=True):
        text += between
        spans.append((len(text), len(text) + len(name)))
        text += name
    return Composed(text, tuple(names), tuple(spans[:-1]))
