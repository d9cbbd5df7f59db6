"""Questions about a drawn scene, each with the one right answer.

Seven kinds; "nothing" is any of the other six, asked about what is not there. Mostly it is a near
miss: the red circle is asked for where a red square and a blue circle lie.

What is asked is drawn at random and checked: unclear queries (two stars almost equally far left,
two things that could be "the red mug") are thrown away. All loops are bounded.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import Final

import numpy as np

from pixellm.drawn.chance import Dice, pick, pick_weighted
from pixellm.drawn.meaning import Look, Query, find_anchor, is_clear, select
from pixellm.drawn.phrasing import full_name, word
from pixellm.drawn.queries import make_query
from pixellm.drawn.scenes import TRAIN_SEEDS, Scene, draw_scene
from pixellm.drawn.shapes import SHAPES

KINDS: Final = (
    "attribute", "all", "superlative", "relation", "negation", "reasoning", "nothing",
)  # fmt: skip
MIX: Final = {
    "attribute": 0.17,
    "all": 0.14,
    "superlative": 0.12,
    "relation": 0.13,
    "negation": 0.10,
    "reasoning": 0.09,
    "nothing": 0.25,
}
"""How often `ask` chooses each kind."""
_ASKED: Final = {kind: share for kind, share in MIX.items() if kind != "nothing"}

GROUP: Final = "{seg}"
"""Stands in an answer where the token group of a target goes."""
NOTHING: Final = "There is no such object."
MAX_TARGETS: Final = 5
"""Longer answers are not asked for."""
TRIES: Final = 16
"""Queries drawn for one kind before another kind is asked."""
LONE: Final = 0.35
"""How often "all of a kind" may be asked where there is just one."""
SINGULAR: Final = 0.6
"""How often the singular is used where the plural would do as well."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene, and one right answer; its targets may be named in any order.

    Attributes:
        text: the words.
        kind: one of `KINDS`; "nothing" when no thing is a target.
        targets: indices in `Scene.things`, from left to right.
        answer: a phrase and `GROUP` for every target in this order, or `NOTHING`.
        query: the meaning; its `kind` tells how it is asked even when nothing matches.
        anchor: index of the thing that a relation refers to, if it is there.
    """

    text: str
    kind: str
    targets: tuple[int, ...]
    answer: str
    query: Query
    anchor: int | None


def ask(scene: Scene, rng: Dice, kind: str | None = None, way: str | None = None) -> Question:
    """Ask about a scene: the given kind, or one drawn from `MIX`.

    Args:
        scene: what is asked about.
        rng: what decides.
        kind: one of `KINDS`.
        way: the kind that a question which nothing matches looks like.

    Not every scene can be asked every kind (a superlative needs two things that clearly differ);
    then one thing is asked for by its attributes, which always works. `Question.kind` says what it
    became.
    """
    kind = kind or pick_weighted(rng, MIX)
    if kind == "nothing":
        query = _search(scene, rng, way or pick_weighted(rng, _ASKED), hit=False)
        query = query or _search(scene, rng, "attribute", hit=False) or _absent(scene, rng)
    else:
        query = _search(scene, rng, kind, hit=True) or _sure(scene, rng)
    targets = select(query, scene)
    text = word(query, _asks_for_many(query, len(targets), rng), rng)
    return Question(
        text,
        query.kind if targets else "nothing",
        targets,
        answer(scene, targets),
        query,
        find_anchor(query, scene),
    )


def answer(scene: Scene, targets: tuple[int, ...]) -> str:
    """The text that answers a question with these targets."""
    if not targets:
        return NOTHING
    return ", ".join(f"{full_name(scene.things[i])} {GROUP}" for i in targets) + "."


def in_any_order(question: Question, scene: Scene, rng: np.random.Generator) -> Question:
    """The same question with its targets named in a random order.

    What is to be learnt is the set. An order would have to be learnt besides: a small language
    model whose state held the right set left targets out when it had to name them left to right.
    """
    targets = tuple(question.targets[i] for i in rng.permutation(len(question.targets)))
    return replace(question, targets=targets, answer=answer(scene, targets))


def names_same(said: str, wanted: str, mark: str) -> bool:
    """Whether an answer names the targets of another one, in any order; `mark` ends each name."""
    return _names(said, mark) == _names(wanted, mark)


def _names(text: str, mark: str) -> list[str]:
    return sorted(name.strip(" ,.") for name in text.split(mark))


def corpus(count: int, seed: int) -> Iterator[str]:
    """Texts to train a tokenizer on: `count` questions, each followed by its answer."""
    return islice(_texts(Random(seed)), 2 * count)


def _texts(rng: Random) -> Iterator[str]:
    while True:
        scene = draw_scene(TRAIN_SEEDS[int(rng.random() * len(TRAIN_SEEDS))])
        for _ in range(10):
            question = ask(scene, rng)
            yield question.text
            yield question.answer


# Choosing ------------------------------------------------------------------------------


def _search(scene: Scene, rng: Dice, kind: str, hit: bool) -> Query | None:
    """A clear query of this kind that matches something (or nothing), if one turns up."""
    for _ in range(TRIES):
        query = make_query(kind, scene, rng, hit)
        if _is_good(query, scene, rng, hit) and is_clear(query, scene):
            return query
    return None


def _is_good(query: Query, scene: Scene, rng: Dice, hit: bool) -> bool:
    count = len(select(query, scene))
    if not hit or count == 0:
        return not hit and count == 0
    if query.kind == "attribute":
        return count == 1
    if query.kind == "all" and count == 1:
        return rng.random() < LONE
    if query.unlike is not None and count == sum(map(query.look.fits, scene.things)):
        return False  # "everything that is not red" where nothing is
    return count <= MAX_TARGETS


def _sure(scene: Scene, rng: Dice) -> Query:
    thing = pick(rng, scene.things)
    return Query("attribute", Look(thing.shape, thing.colour, thing.size, thing.texture))


def _absent(scene: Scene, rng: Dice) -> Query:
    present = {thing.shape for thing in scene.things}  # six things at most, of eight shapes
    absent = [shape for shape in SHAPES if shape not in present]
    return Query("attribute", Look(shape=pick(rng, absent)))


def _asks_for_many(query: Query, count: int, rng: Dice) -> bool:
    if query.kind in ("attribute", "superlative"):
        return False
    return query.kind == "all" or count > 1 or rng.random() >= SINGULAR
