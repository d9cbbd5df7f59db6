"""What the model said: text, token groups, and the phrase that each mask belongs to.

A target is written as a group of codebook tokens; in readable text every group is "[SEG]". The
phrase of a target is found in the answer by a few rules that know the answers PixelLM was trained
on ("the mug is [SEG]", "a and b are [SEG] and [SEG]", "use the mug [SEG]"). Where they find
nothing there is no phrase: a missing name does less harm than a wrong one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixellm.tokenizer import Tokenizer, glue

SEG_MARK = "[SEG]"
Span = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One thing the model pointed at.

    Attributes:
        index: Its place in the answer, from 0.
        phrase: What it is called, or None.
        span: Where the phrase stands in `Answer.text`, in code points; None unless it is there.
        phrase_source: "answer", "instruction" or "none".
        mask: (h0, w0) bool, in the frame of the original image.
        score_mask: Mean probability of the mask's pixels, 0 to 1.
        score_iou: The decoder's own guess of the mask's IoU, if it was trained to make one.
        score_token: Probability of the token group, if it was kept.
    """

    index: int
    phrase: str | None
    span: Span | None
    phrase_source: str
    mask: np.ndarray
    score_mask: float
    score_iou: float | None
    score_token: float | None


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

    @property
    def stop(self) -> int:
        """Index after the last token."""
        return self.positions[-1] + 1


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
    length = len(seg_ids)
    seen = [at for at, index in enumerate(ids) if index in set(seg_ids)]
    if official:
        starts = range(0, len(seen), length) if len(seen) % length == 0 else range(0)
        groups = tuple(TokenGroup(tuple(seen[at : at + length])) for at in starts)
    else:
        whole = [at for at in seen if tuple(ids[at : at + length]) == tuple(seg_ids)]
        groups = tuple(TokenGroup(tuple(range(at, at + length))) for at in whole)
    return groups, len(groups) * length < len(seen)


def render_answer(
    ids: Sequence[int], groups: Sequence[TokenGroup], tokenizer: Tokenizer
) -> tuple[str, tuple[Span, ...]]:
    """Write an answer with every group as "[SEG]".

    Returns:
        The text, and where the mark of each group stands in it, in code points. Codebook tokens
        without a group stay as they are, for example "[SEG3]".
    """
    taken = {at for group in groups for at in group.positions}
    text, marks, done = "", [], 0
    for group in groups:
        before = [ids[at] for at in range(done, group.start) if at not in taken]
        text = glue(glue(text, tokenizer.decode(before)), SEG_MARK)
        marks.append((len(text) - len(SEG_MARK), len(text)))
        done = group.start + 1
    rest = [ids[at] for at in range(done, len(ids)) if at not in taken]
    return glue(text, tokenizer.decode(rest)), tuple(marks)


# Phrases. Every step narrows a span of the answer; a span may end up empty.

_VERB = (
    r"(?:is|are|was|were|be|use|choose|pick|select|take|grab|hold|sit|see|need|suggest|find|try)"
)
_PRONOUN = r"(?:you|i|we|he|she|they|it|one)"
_MODAL = r"(?:can|could|should|would|may|might|must|will)"
_WHICH = r"(?:that|which|who|whose|where)"
_BETWEEN_MARKS = re.compile(r"[\s,]*(?:\b(?:and|or)\b)?\s*", re.I)
_SENTENCES = re.compile(r".*(?:[.!?;]\s|\n)", re.S)
_RESULT_OF = re.compile(r".*\bsegmentation (?:result|mask)s? (?:of|for)\s", re.I | re.S)
_COURTESY = re.compile(
    r"(?:[\s,;:.!)\-]|(?:and|or|but|then|while|sure|yes|okay|ok|certainly|of course)\b"
    r"|(?:here|there|it|they|these|this|that) (?:is|are)\b)+",
    re.I,
)
_COPULA = re.compile(
    r"(?:[\s,:=(\-]|\b(?:is|are|was|were|at|as|by|in|and|or|here|shown|marked|located)\b)+$",
    re.I,
)
_ACTION = re.compile(rf"\b{_VERB}\b(?:\s+(?:to\s+)?{_VERB}\b)*", re.I)
_SUBJECT = re.compile(rf"{_PRONOUN}\s+{_MODAL}\s+(?:also\s+)?\w+", re.I)
_RELATIVE = re.compile(
    rf"(?:\b(?:{_WHICH}|to)\s+(?:{_PRONOUN}\s+)?|\w\s+{_PRONOUN}\s+)(?:{_MODAL}\s+)?$", re.I
)
_PREPOSITIONS = re.compile(
    r"(?:\s|(?:up|on|in|at|to|of|for|from|with|into|onto|by|near|next|as)(?![\w-]))+", re.I
)
_CONTINUES = re.compile(rf"(?:{_WHICH}|on|in|at|of|from|with|by|near|next)\b", re.I)
_DETERMINER = r"(?:the|an?|this|that|these|those|its|his|her|their|my|your|our)"
_DETERMINED = re.compile(rf"{_DETERMINER}\b", re.I)
_ADJECTIVES = re.compile(rf"{_DETERMINER}(?:\s+\w+){{1,2}}", re.I)
_NO_NAME = re.compile(
    r"(?:(?:it|they|them|this|that|these|those|here|there|he|she|one|ones)\s*)*"
    r"|(?:(?:the|your|its)\s+)?(?:segmentation\s*)?(?:results?|masks?|answers?|targets?)?",
    re.I,
)
_MARGIN = " \t\n\"'\u2018\u2019\u201c\u201d\u3001\u3002\uff0c,;:.("
_LIST_COMMA = r"\s*,\s*(?:(?:and|or)\s+)?"
MAX_PHRASE_CHARS = 120  # code points; a longer stretch of text is a story, not a name


def phrase_spans(text: str) -> tuple[Span | None, ...]:
    """Find the phrase of every "[SEG]" in a text; see `find_phrases`."""
    return find_phrases(text, [match.span() for match in re.finditer(r"\[SEG\]", text)])


def find_phrases(text: str, marks: Sequence[Span]) -> tuple[Span | None, ...]:
    """Find what each marked target is called.

    Args:
        text: An answer.
        marks: Where the marks stand in it, in order, in code points.

    Returns:
        For every mark the span of its phrase, or None. Marks that only commas and "and" separate
        share what stands before the first: as many names are paired in order, one belongs to all.
    """
    found: list[Span | None] = []
    done = 0
    for run in _runs(text, marks):
        found.extend(_name_run(text, _clause(text, (done, run[0][0])), len(run)))
        done = run[-1][1]
    return tuple(found)


def _runs(text: str, marks: Sequence[Span]) -> list[list[Span]]:
    runs: list[list[Span]] = []
    for mark in marks:
        if runs and _BETWEEN_MARKS.fullmatch(text, runs[-1][-1][1], mark[0]):
            runs[-1].append(mark)
        else:
            runs.append([mark])
    return runs


def _clause(text: str, span: Span) -> Span:
    """The last sentence of the span, without what leads to it and what leads to the mark."""
    span = _skip(_SENTENCES, text, span)
    if match := _COPULA.search(text, *span):
        span = (span[0], match.start())
    return _skip(_COURTESY, text, _skip(_RESULT_OF, text, span))


def _name_run(text: str, clause: Span, count: int) -> list[Span | None]:
    if count == 1:
        return [_name(text, _last_part(text, clause))]
    items = _split(text, clause, rf"{_LIST_COMMA}|\s+(?:and|or)\s+")
    while len(items) > count and _CONTINUES.match(text, *items[0]):
        del items[0]  # "In this image, a and b are ..."
    if len(items) == 1:
        return [_name(text, items[0])] * count
    if len(items) != count:
        items = _split(text, clause, _LIST_COMMA)  # "the black and white cat, the dog"
        if re.search(r"\s(?:and|or)\s", text[slice(*items[-1])]):
            return [None] * count  # "a, b and c are [SEG] and [SEG]": which two?
    return [_name(text, item) for item in items] if len(items) == count else [None] * count


def _split(text: str, span: Span, separator: str) -> list[Span]:
    cuts = [match.span() for match in re.compile(separator, re.I).finditer(text, *span)]
    edges = [span[0], *(edge for cut in cuts for edge in cut), span[1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _last_part(text: str, span: Span) -> Span:
    """What follows the last comma, unless the comma stands inside a name."""
    start, stop = span
    parts = _split(text, span, r",\s+")
    for before, part in zip(parts[-2::-1], parts[:0:-1], strict=True):
        inside = _ADJECTIVES.fullmatch(text, *before) and not _DETERMINED.match(text, *part)
        if not inside and not _CONTINUES.match(text, *part):
            start = part[0]  # not "the large, red circle", not "the mug, which is red"
            break
    return _skip(_COURTESY, text, (start, stop))


def _name(text: str, span: Span) -> Span | None:
    """The span without subject, verb, prepositions and punctuation; None if it is no name."""
    start, stop = _skip(_PREPOSITIONS, text, _skip(_SUBJECT, text, span))
    for match in _ACTION.finditer(text, start, stop):
        rest = _skip(_PREPOSITIONS, text, (match.end(), stop))
        if rest[0] < stop and not _RELATIVE.search(text, span[0], match.start()):
            start = rest[0]
    while start < stop and text[start] in _MARGIN:
        start += 1
    while start < stop and text[stop - 1] in _MARGIN:
        stop -= 1
    if _NO_NAME.fullmatch(text, start, stop) or stop - start > MAX_PHRASE_CHARS:
        return None
    return (start, stop) if any(map(str.isalnum, text[start:stop])) else None


def _skip(pattern: re.Pattern[str], text: str, span: Span) -> Span:
    match = pattern.match(text, *span)
    return (match.end() if match else span[0], span[1])
