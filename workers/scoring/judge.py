"""Whether a phrase of an answer names the true object: a judge says, from 0 to 1.

By default the words are compared; `model_judge` asks a language model.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Protocol

from workers.labels.targets import normalise_phrase

ACCEPTED = 0.5
"""A phrase names the object when the judge says more than this, as in MUSE."""
ALIKE = 0.8
"""Of two words, 0 to 1: `mug` and `mugs` are alike (0.86), `red` and `bed` are not (0.67)."""
MOST_WORDS = 100
"""Of a phrase that are compared, the first ones: no name is longer; each is compared to each."""
MOST_LETTERS = 50
"""Of a word that may be alike to another; a longer one is that word, or it isn't."""


@dataclass(frozen=True, slots=True)
class Phrases:
    """What an object is called in both tables."""

    true: str
    said: str


class Judge(Protocol):
    """Says how well phrases name objects."""

    def judge(self, pairs: Sequence[Phrases]) -> Sequence[float | None]:
        """A number from 0 to 1 for each pair; None where it has no answer to one.

        Raises:
            ScoringError: it has no answer to any.
        """


class WordJudge(Judge):
    """Compares words: the share that both phrases have, of all words of both.

    Case, punctuation and a leading article don't count, nor does the order, nor an ending.
    """

    def judge(self, pairs: Sequence[Phrases]) -> Sequence[float | None]:
        """A number from 0 to 1 for each pair."""
        return [_compare_words(pair) for pair in pairs]


class Remembering(Judge):
    """Asks another judge once for each two phrases, however often they come to it.

    Each bucket has one of its own: what comes in several buckets is asked in each.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: dict[Phrases, float | None] = {}

    def judge(self, pairs: Sequence[Phrases]) -> Sequence[float | None]:
        """What the other judge said."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        self._known.update(zip(new, self._judge.judge(new), strict=True))
        return [self._known[pair] for pair in pairs]


def _compare_words(pair: Phrases) -> float:
    true, said = _words(pair.true), _words(pair.said)
    total = len(true) + len(said)
    same = Counter(true) & Counter(said)
    left = list((Counter(said) - same).elements())
    common = same.total()
    for word in (Counter(true) - same).elements():
        found = next((each for each in left if _are_alike(word, each)), None)
        if found is not None:
            left.remove(found)
            common += 1
    return 2 * common / total if total else 0.0


def _words(phrase: str) -> list[str]:
    return normalise_phrase(phrase).split()[:MOST_WORDS]


def _are_alike(one: str, other: str) -> bool:
    if max(len(one), len(other)) > MOST_LETTERS:
        return False
    return SequenceMatcher(None, one, other).ratio() >= ALIKE
