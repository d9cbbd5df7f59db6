"""What the targets of an answer are called: the phrase that belongs to each "[SEG]".

A phrase is found by a few rules that know the answers PixelLM was trained on ("the mug is [SEG]",
"a and b are [SEG] and [SEG]", "use the mug [SEG]"). Where they find nothing there is no phrase: a
missing name does less harm than a wrong one.

Every step narrows a span of the answer; a span may end up empty.
"""

import re
from collections.abc import Sequence

Span = tuple[int, int]
MAX_PHRASE_CHARS = 120
"""Code points; a longer stretch of text is a story, not a name."""

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
