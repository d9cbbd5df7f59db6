"""What the model said, and what decides how it says it: text, token groups, targets, settings.

A target is written as a group of codebook tokens; in readable text every group is "[SEG]". Nothing
here needs torch, so that settings and tables can be made where there is no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixellm.errors import ConfigError
from pixellm.phrases import Span
from pixellm.run_lengths import RunMask
from pixellm.tokenizer import Tokenizer

SEG_MARK = "[SEG]"


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """What decides an answer besides weights and question; part of a label's fingerprint.

    Attributes:
        max_new_tokens: Longest answer, in tokens; the official limit.
        official_groups: Drop all masks of an answer with an incomplete token group, as the
            official code does (Q20). Off: whole groups are kept and the answer is malformed.
        forced_groups: After the first token of a group come all others, and are read in one step.
            Off, or with `official_groups`: each is chosen, and a group may break off.
        folded_projector: Two linear steps of the image maps are one (`pixellm.folding`): the same
            but for rounding, and the model that an engine is given is changed for good.

    Raises:
        ConfigError: an answer could have no token.
    """

    max_new_tokens: int = 512
    official_groups: bool = False
    forced_groups: bool = True
    folded_projector: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}: an answer has at least 1")


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One thing the model pointed at.

    Attributes:
        index: Its place in the answer, from 0.
        phrase: What it is called, or None.
        span: Where the phrase stands in `Answer.text`, in code points; None unless it is there.
        phrase_source: "answer", "instruction" or "none".
        runs: Its pixels, in the frame of the original image.
        score_mask: Mean probability of the mask's pixels, 0 to 1.
        score_iou: The decoder's own guess of the mask's IoU; means nothing unless it was trained.
        score_token: Probability of the token group, if it was kept.
        score_phrase: Probability of the tokens that write the phrase; None unless it is there.
    """

    index: int
    phrase: str | None
    span: Span | None
    phrase_source: str
    runs: RunMask
    score_mask: float
    score_iou: float | None = None
    score_token: float | None = None
    score_phrase: float | None = None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(h0, w0) bool, made anew at each call."""
        return self.runs.pixels()


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer to one question.

    Attributes:
        text: Readable; every token group is "[SEG]".
        token_ids: The generated ids.
        targets: In the order of the text.
        malformed: The ids hold codebook tokens that belong to no whole group.
        truncated: The answer was cut at the limit of new tokens.
    """

    text: str
    token_ids: tuple[int, ...]
    targets: tuple[Target, ...]
    malformed: bool
    truncated: bool


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """The codebook tokens of one target, as indices into the generated ids.

    Attributes:
        positions: Ascending; one per codebook token. The official rules may join tokens that
            other text separates, the strict ones never do.
    """

    positions: tuple[int, ...]

    @property
    def start(self) -> int:
        """Index of the first token."""
        return self.positions[0]


def find_groups(
    ids: Sequence[int], seg_ids: Sequence[int], official: bool = False
) -> tuple[tuple[TokenGroup, ...], bool]:
    """Find the token groups of an answer.

    Args:
        ids: Generated ids.
        seg_ids: The ids of one whole group, in order.
        official: Any tokens of the codebook make up groups, whatever their order, and an
            incomplete group drops all. Otherwise a group is the codebook in order, the rest waste.

    Returns:
        The groups, and whether codebook tokens were left over.
    """
    length, codebook = len(seg_ids), set(seg_ids)
    seen = [at for at, index in enumerate(ids) if index in codebook]
    if official:
        starts = range(0, len(seen), length) if len(seen) % length == 0 else range(0)
        groups = tuple(TokenGroup(tuple(seen[at : at + length])) for at in starts)
    else:
        whole = [at for at in seen if tuple(ids[at : at + length]) == tuple(seg_ids)]
        groups = tuple(TokenGroup(tuple(range(at, at + length))) for at in whole)
    return groups, len(groups) * length < len(seen)


def render_answer(
    ids: Sequence[int], groups: Sequence[TokenGroup], tokenizer: Tokenizer
) -> tuple[str, tuple[Span, ...], tuple[Span, ...]]:
    """Write an answer with every group as "[SEG]".

    Returns:
        The text; where the mark of each group stands in it; and where each id does, see
        `Tokenizer.decode_with_places`: the first of a group at its mark, the others nowhere. All
        in code points. Codebook tokens without a group stay as they are, for example "[SEG3]".
    """
    instead = {at: "" for group in groups for at in group.positions}
    instead |= {group.start: SEG_MARK for group in groups}
    text, places = tokenizer.decode_with_places(ids, instead)
    return text, tuple(places[group.start] for group in groups), places


def ids_within(span: Span, places: Sequence[Span]) -> list[int]:
    """The ids that hold a character of a span, also if they hold others too.

    Args:
        span: In the text of an answer.
        places: Where the ids stand in it, from `render_answer`.

    Returns:
        Their indices, ascending.
    """
    first, last = span
    return [at for at, (start, stop) in enumerate(places) if max(first, start) < min(last, stop)]
