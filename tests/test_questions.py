"""Questions are checked by reading them: `read` knows English, not the generator's queries."""

import random
import re
from collections import Counter

import numpy as np
import pytest

from pixellm.drawn.meaning import PLACE_MARGIN, Look, Query, is_clear, select
from pixellm.drawn.questions import (
    GROUP,
    KINDS,
    MAX_TARGETS,
    MIX,
    NOTHING,
    ask,
    corpus,
    in_any_order,
    names_same,
)
from pixellm.drawn.scenes import TEST_SEEDS, draw_scene

SCENES = [draw_scene(seed) for seed in TEST_SEEDS[:500]]
RNG = random.Random(11)
ASKED = [(scene, ask(scene, RNG)) for scene in SCENES for _ in range(12)]

# A reader of the questions ----------------------------------------------------------------------

COLOUR_WORDS = {"red", "green", "blue", "yellow", "purple", "orange"}
SHAPE_WORDS = {"circle", "square", "triangle", "star", "heart", "mug", "fish", "house"}
ADJECTIVES = COLOUR_WORDS | {"small", "large", "plain", "striped"}
FILLERS = {"the", "all", "every", "each", "everything", "what", "which", "is", "are", "that"}
FILLERS |= {"object", "objects", "thing", "things"}
PREDICATES = {
    r"rolls?|roll away|balls?": "circle",
    r"four corners|box": "square",
    r"three (corners|sides)": "triangle",
    r"(shines?|seen) (at|in)": "star",
    r"love": "heart",
    r"tea|drink": "mug",
    r"water|swims?": "fish",
    r"people live|to live in|roof": "house",
}
PLACE = re.compile(
    r"^(.*?) ?\b(?:to the )?(left of|right of|above|below|higher than|lower than) the (.*)$"
)
EXTREMES = {
    "largest": lambda t: t.radius,
    "biggest": lambda t: t.radius,
    "smallest": lambda t: -t.radius,
    "leftmost": lambda t: -t.x,
    "rightmost": lambda t: t.x,
    "topmost": lambda t: -t.y,
    "highest": lambda t: -t.y,
    "lowest": lambda t: t.y,
}
BEYOND = {
    "left of": lambda t, a: a.x - t.x,
    "right of": lambda t, a: t.x - a.x,
    "above": lambda t, a: a.y - t.y,
    "higher than": lambda t, a: a.y - t.y,
    "below": lambda t, a: t.y - a.y,
    "lower than": lambda t, a: t.y - a.y,
}


def called(words, things):
    """The things that a noun phrase fits, word by word."""
    for word in words.split():
        name = word if word in SHAPE_WORDS else word.removesuffix("s")
        if word in COLOUR_WORDS:
            things = [t for t in things if t.colour == word]
        elif word in ("small", "large"):
            things = [t for t in things if t.size == word]
        elif word in ("plain", "striped"):
            things = [t for t in things if t.texture == word]
        elif name in SHAPE_WORDS:
            things = [t for t in things if t.shape == name]
        else:
            assert word in FILLERS, word
    return things


def bare(text):
    """The question without politeness: what is to be found."""
    text = re.sub(r"(, please)?[.?]$", "", text).lower()
    ask_for = "segment|mark|show me|find|point to|i am looking for|can you show me|could you find"
    text = re.sub(rf"^(please )?({ask_for}) ", "", text)
    return re.sub(r"^(where is|which object is) (?=the )", "", text)


def read_use(text, things):
    for pattern, shape in PREDICATES.items():
        if found := re.search(rf"\b({pattern})\b", text):
            said = set(text[: found.start()].split()) & ADJECTIVES
            return called(" ".join([*said, shape]), things)
    return None


def read_place(text, things):
    if not (place := PLACE.match(text)):
        return None
    head, side, anchor = place.groups()
    anchors = called(anchor, things)
    assert len(anchors) <= 1, "the anchor is ambiguous"
    if not anchors:
        return []
    distance = {t: BEYOND[side](t, anchors[0]) for t in called(head, things) if t not in anchors}
    assert all(abs(d) >= 6 / 128 for d in distance.values()), "too close to call"
    return [t for t in distance if distance[t] > 0]


def read_not(text, things):
    if text.endswith(" without stripes"):
        text = text.removesuffix("without stripes") + "that is not striped"
    if not (parts := re.match(r"(.*?) (?:except|but|(?:that )?(?:is|are) not(?: a)?) (.*)", text)):
        return None
    barred = called(parts[2], things)
    return [t for t in called(parts[1], things) if t not in barred]


def read_most(text, things):
    for word, degree in EXTREMES.items():
        if word in text.split():
            fit = sorted(called(text.replace(word, ""), things), key=degree)
            if fit:
                best, second = degree(fit[-1]), degree(fit[-2])
                by_size = word in ("largest", "biggest", "smallest")
                assert (
                    max(best / second, second / best) >= 1.2
                    if by_size
                    else best - second >= 6 / 128
                )
            return fit[-1:]
    return None


def read(text, things):
    """The things that a question asks for, found by reading it; margins are asserted on the way."""
    text = bare(text)
    for reader in (read_use, read_place, read_not, read_most):
        found = reader(text, things)
        if found is not None:
            return found
    return called(text, things)


def asks_for_one(text):
    """Whether the wording promises a single target."""
    text = PLACE.sub(r"\1", bare(text))
    if re.match(r"(all|each|every|everything|what|where)\b", text) or " people " in text:
        return False
    head = re.split(r" that | is | are | can | has | not ", text)[0].split()
    verb_is_plural = re.search(r"\b(are|have|live|shine|stand|mean|look)\b", text)
    nouns = SHAPE_WORDS | {"object", "thing"}
    return head[0] in ("the", "which") and head[-1] in nouns and not verb_is_plural


# Tests ------------------------------------------------------------------------------------------


def test_every_answer_is_what_the_words_of_the_question_say():
    assert len(ASKED) >= 6000
    for scene, question in ASKED:
        found = sorted(read(question.text, scene.things), key=lambda t: t.x)
        assert found == [scene.things[i] for i in question.targets], question


def test_a_question_for_one_thing_never_has_two_answers():
    singular = [question for _, question in ASKED if asks_for_one(question.text)]
    assert len(singular) > 2000
    assert max(len(question.targets) for question in singular) == 1


def test_the_query_means_what_the_words_say():
    for scene, question in ASKED:
        assert select(question.query, scene) == question.targets
        assert is_clear(question.query, scene)


def test_targets_are_listed_from_left_to_right_with_their_full_names():
    for scene, question in ASKED:
        xs = [scene.things[i].x for i in question.targets]
        assert xs == sorted(xs)
        assert question.answer.count(GROUP) == len(xs) <= MAX_TARGETS
        for index, part in zip(question.targets, question.answer.split(", "), strict=False):
            thing = scene.things[index]
            texture = ["striped"] if thing.texture == "striped" else []
            words = ["the", thing.size, thing.colour, *texture, thing.shape, GROUP]
            assert part.removesuffix(".").split() == words


def test_a_shuffled_question_asks_the_same_and_names_the_same_targets():
    rng, turned = np.random.default_rng(0), 0
    for scene, question in ASKED:
        shuffled = in_any_order(question, scene, rng)
        assert (shuffled.text, shuffled.kind) == (question.text, question.kind)
        assert sorted(shuffled.targets) == sorted(question.targets)
        assert names_same(shuffled.answer, question.answer, GROUP)
        turned += shuffled.answer != question.answer
    assert turned > len(ASKED) / 10


def test_answers_that_name_other_targets_are_not_the_same():
    both = "the small red star {seg}, the large blue fish {seg}."
    assert names_same("the large blue fish {seg}, the small red star {seg}.", both, GROUP)
    assert not names_same("the large blue fish {seg}.", both, GROUP)
    assert not names_same("the large red star {seg}, the small blue fish {seg}.", both, GROUP)
    assert not names_same("the large blue fish, the small red star {seg}.", both, GROUP)
    assert not names_same(NOTHING, both, GROUP)


def test_names_in_an_answer_mean_one_thing_each():
    for _, question in ASKED:
        parts = question.answer.removesuffix(".").split(", ")
        assert len(set(parts)) == len(parts)


def test_a_quarter_of_the_questions_match_nothing_and_say_so():
    nothing = [question for _, question in ASKED if question.kind == "nothing"]
    assert 0.22 < len(nothing) / len(ASKED) < 0.29
    assert all(q.answer == NOTHING and not q.targets for q in nothing)
    assert all(q.answer != NOTHING for _, q in ASKED if q.kind != "nothing")


def test_no_kind_starves_and_each_is_asked_in_vain_too():
    kinds = Counter(question.kind for _, question in ASKED)
    vain = Counter(question.query.kind for _, question in ASKED if question.kind == "nothing")
    for kind in KINDS:
        assert kinds[kind] / len(ASKED) > 0.8 * MIX[kind]
    for kind in KINDS[:-1]:
        assert vain[kind] / sum(vain.values()) > 0.08


def test_most_questions_in_vain_are_near_misses():
    near = total = 0
    for scene, question in ASKED:
        if question.kind == "nothing" and question.query.kind in ("attribute", "all"):
            look = question.query.look
            wanted = [(n, getattr(look, n)) for n in ("shape", "colour", "size", "texture")]
            wanted = [(name, value) for name, value in wanted if value]
            if len(wanted) > 1:
                near += all(any(getattr(t, n) == v for t in scene.things) for n, v in wanted)
                total += 1
    assert near / total > 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_can_be_asked_for(kind):
    got = [ask(scene, RNG, kind).kind for scene in SCENES[:200]]
    assert got.count(kind) >= 190
    assert set(got) <= {kind, "attribute"}


def test_a_superlative_without_a_clear_winner_becomes_another_question():
    scene = next(s for s in SCENES if len({t.size for t in s.things}) == 1)
    query = Query("superlative", Look(), extreme="largest")
    assert not is_clear(query, scene)


def test_something_just_beside_the_anchor_is_not_asked_about():
    for scene in SCENES:
        for thing in scene.things:
            close = [
                t for t in scene.things if t is not thing and abs(t.x - thing.x) < PLACE_MARGIN
            ]
            anchor = Look(thing.shape, thing.colour, thing.size, thing.texture)
            query = Query("relation", Look(), side="left", anchor=anchor)
            assert is_clear(query, scene) == (not close)


def test_the_vocabulary_is_small_and_questions_are_short():
    texts = [text for _, q in ASKED for text in (q.text, q.answer.replace(GROUP, ""))]
    words = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    assert 100 <= len(words) <= 130
    lengths = sorted(len(question.text.split()) for _, question in ASKED)
    assert lengths[len(lengths) // 2] <= 7
    assert lengths[-1] <= 20


def test_a_kind_is_phrased_in_many_ways():
    for kind in KINDS:
        openings = {q.text.split()[0] for _, q in ASKED if q.kind == kind}
        assert len(openings) >= 8, kind


def test_the_same_dice_ask_the_same_and_numpy_can_throw_them_too():
    first, second = ([ask(s, np.random.default_rng(3)).text for s in SCENES[:20]] for _ in range(2))
    assert first == second


def test_the_corpus_holds_questions_each_followed_by_its_answer():
    texts = list(corpus(50, seed=1))
    assert len(texts) == 100
    assert texts == list(corpus(50, seed=1))
    assert texts != list(corpus(50, seed=2))
    assert all(answer == NOTHING or GROUP in answer for answer in texts[1::2])
