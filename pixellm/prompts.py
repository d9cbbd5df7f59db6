"""The conversation form that PixelLM was trained with, and what a user's words must go through.

The form is that of Vicuna 1.1, with a line break after the image:
`<system> USER: <im_start><image><im_end>` and `<question> ASSISTANT: <answer></s>`.
"""

import re
import unicodedata
from dataclasses import dataclass

from pixellm.added_tokens import IMAGE_END, IMAGE_START
from pixellm.errors import InstructionError
from pixellm.tokenizer import IMAGE_TOKEN, Tokenizer

SYSTEM_TEXT = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
PROMPT_VERSION = "llava_v1.1"
"""Part of every label's fingerprint. Change it with anything here that changes a prompt."""
IGNORE_INDEX = -100
"""The label of a position that isn't learned."""
MAX_INSTRUCTION_CHARS = 1000
"""Code points, about 250 ids: training cut whole conversations at 257 ids."""
MAX_RAW_CHARS = 2 * MAX_INSTRUCTION_CHARS
"""Code points before cleaning, so that cleaning a hostile text takes bounded time."""

# Tokens of this family of models, whether the checkpoint at hand has them or not, and the words
# that begin a turn. A model that reads them would take user text for a turn or an answer.
_FORBIDDEN = re.compile(
    r"</?(?:s|unk|pad|image|im_start|im_end|im_patch)>|\[(?:SEG\d*|PAD)\]"
    r"|(?-i:USER|ASSISTANT)\s*:",
    re.IGNORECASE,
)
_KEPT_FORMATS = "\u200c\u200d"  # joiners: Persian, Indic scripts and emoji need them
_DROPPED_CATEGORIES = ("Cc", "Cf", "Cs")  # controls; bidi and invisible ones; half surrogates


@dataclass(frozen=True, slots=True)
class LabelledIds:
    """A conversation to learn from.

    Attributes:
        ids: Token ids, `IMAGE_TOKEN_INDEX` at the image.
        labels: The same ids where the answer and its `</s>` stand, `IGNORE_INDEX` elsewhere.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]


def system_text(own: str | None) -> str:
    """What stands before "USER:" for a model that may have a text of its own."""
    return SYSTEM_TEXT if own is None else own


def render_prompt(question: str, system: str = SYSTEM_TEXT) -> str:
    """Write what the model reads before it answers; `system` may be empty."""
    turn = f"USER: {IMAGE_START}{IMAGE_TOKEN}{IMAGE_END}\n{question} ASSISTANT:"
    return f"{system} {turn}" if system else turn


def prompt_ids(tokenizer: Tokenizer, question: str, system: str = SYSTEM_TEXT) -> list[int]:
    """Ids of what the model reads before it answers, `IMAGE_TOKEN_INDEX` at the image."""
    return tokenizer.encode_prompt(render_prompt(question, system))


def render_conversation(question: str, answer: str, system: str = SYSTEM_TEXT) -> str:
    """Write a question with its answer, as training and teacher forcing need it."""
    return f"{render_prompt(question, system)} {answer}</s>"


def label_conversation(
    tokenizer: Tokenizer, question: str, answer: str, system: str = SYSTEM_TEXT
) -> LabelledIds:
    """Tokenize a question with its answer; only the answer and `</s>` are learned."""
    ids = tokenizer.encode_prompt(render_conversation(question, answer, system))
    asked = len(prompt_ids(tokenizer, question, system))
    return LabelledIds(tuple(ids), (IGNORE_INDEX,) * asked + tuple(ids[asked:]))


def clean_instruction(text: str) -> str:
    """Make a user's text safe to stand in a prompt.

    Special tokens, role markers, control and invisible characters go (also where taking one out
    uncovers another), white space collapses, and the rest is composed (NFC).

    Raises:
        InstructionError: Nothing is left, or the text is too long.
    """
    if len(text) > MAX_RAW_CHARS:
        raise InstructionError(_too_long(text))
    text = _strip_until_stable(text)
    if not text:
        raise InstructionError("the instruction is empty once it is cleaned; ask in plain words")
    if len(text) > MAX_INSTRUCTION_CHARS:
        raise InstructionError(_too_long(text))
    return text


def _too_long(text: str) -> str:
    return (
        f"the instruction that begins {text[:40]!r} has {len(text)} characters; "
        f"the most is {MAX_INSTRUCTION_CHARS}"
    )


def _strip_until_stable(text: str) -> str:
    while (stripped := _strip_once(text)) != text:
        text = stripped
    return text


def _strip_once(text: str) -> str:
    # U+2581 is how sentencepiece writes a space: the model would read it as one.
    spaced = " ".join(text.replace("\u2581", " ").split())
    visible = "".join(
        char
        for char in spaced
        if char in _KEPT_FORMATS or unicodedata.category(char) not in _DROPPED_CATEGORIES
    )
    return unicodedata.normalize("NFC", _FORBIDDEN.sub("", visible)).strip()
