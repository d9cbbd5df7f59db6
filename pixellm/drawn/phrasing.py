"""The words of the drawn world: how a query is asked, and what a thing is called in an answer.

The vocabulary is small on purpose, and a test keeps it so: a model of three million parameters
learns from scratch what every single word means.
"""

from typing import Final

from pixellm.drawn.chance import Dice, pick
from pixellm.drawn.meaning import Look, Query
from pixellm.drawn.scenes import Thing

REQUESTS: Final = (
    "Segment {}.",
    "Segment {}, please.",
    "Please segment {}.",
    "Mark {}.",
    "Please mark {}.",
    "Show me {}.",
    "Can you show me {}?",
    "Find {}.",
    "Could you find {}?",
    "Point to {}.",
    "I am looking for {}.",
)
"""Polite or not, for one target or many."""

SIDE_WORDS: Final = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
}
EXTREME_WORDS: Final = {
    "largest": ("largest", "biggest"),
    "smallest": ("smallest",),
    "leftmost": ("leftmost",),
    "rightmost": ("rightmost",),
    "topmost": ("topmost", "highest"),
    "lowest": ("lowest",),
}
USES: Final = {
    "circle": (("can roll away", "can roll away"), ("looks like a ball", "look like a ball")),
    "square": (("has four corners", "have four corners"), ("looks like a box", "look like a box")),
    "triangle": (
        ("has three corners", "have three corners"),
        ("has three sides", "have three sides"),
    ),
    "star": (
        ("shines at night", "shine at night"),
        ("is seen in the night sky", "are seen in the night sky"),
    ),
    "heart": (("stands for love", "stand for love"), ("means love", "mean love")),
    "mug": (("can hold tea", "can hold tea"), ("is good to drink from", "are good to drink from")),
    "fish": (("lives in water", "live in water"), ("can swim", "can swim")),
    "house": (("is a place to live in", "are places to live in"), ("has a roof", "have a roof")),
}
"""What each shape is for or stands for, said of one and of many."""
USE_QUESTIONS: Final = {
    "mug": ("What do people drink from?", "Find something to drink from."),
    "house": ("Where do people live?", "Show me where people live."),
    "star": ("What shines in the sky?",),
    "fish": ("What swims in water?",),
}
"""Whole questions for which the number of targets does not matter."""


def full_name(thing: Thing) -> str:
    """The phrase of a thing in answers: size, colour, texture (unless plain), shape."""
    texture = "" if thing.texture == "plain" else thing.texture + " "
    return f"the {thing.size} {thing.colour} {texture}{thing.shape}"


def word(query: Query, many: bool, rng: Dice) -> str:
    """Put a query into words, as a question for one target or for any number of them."""
    match query.kind:
        case "superlative":
            return _superlative(query, rng)
        case "relation":
            return _relation(query, many, rng)
        case "negation":
            return _negation(query, many, rng)
        case "reasoning":
            return _reasoning(query, many, rng)
        case _:
            return _described(query.look, many, rng)


# Parts ---------------------------------------------------------------------------------


def _noun(look: Look, many: bool, rng: Dice) -> str:
    """A noun with its adjectives: "large red star", "striped things"."""
    if look.shape is None:
        noun = pick(rng, ("object", "thing"))
        noun = noun + "s" if many else noun
    else:
        noun = _plural(look.shape) if many else look.shape
    return " ".join([part for part in (look.size, look.colour, look.texture) if part] + [noun])


def _plural(shape: str) -> str:
    return shape if shape == "fish" else shape + "s"


def _adjective(look: Look) -> str | None:
    """The only attribute that is named, when it is an adjective."""
    named = [part for part in (look.size, look.colour, look.texture) if part]
    return named[0] if len(named) == 1 and look.shape is None else None


def _group(look: Look, rng: Dice) -> str:
    """Any number of things: "all red stars", "every star", "everything striped"."""
    adjective = _adjective(look)
    if adjective is not None and rng.random() < 0.3:
        return f"everything {adjective}"
    if rng.random() < 0.5:
        return pick(rng, ("every ", "each ")) + _noun(look, False, rng)
    return pick(rng, ("all ", "all the ")) + _noun(look, True, rng)


def _target(look: Look, many: bool, rng: Dice) -> str:
    """What is asked for, with its article: "the red star", "all red stars", "everything"."""
    if not many:
        return "the " + _noun(look, False, rng)
    if look == Look() and rng.random() < 0.6:
        return "everything"
    return _group(look, rng)


def _request(target: str, rng: Dice) -> str:
    return pick(rng, REQUESTS).format(target)


# Kinds ---------------------------------------------------------------------------------


def _described(look: Look, many: bool, rng: Dice) -> str:
    """One thing by its attributes, or all of a kind."""
    adjective = _adjective(look)
    if adjective is not None and rng.random() < 0.3:
        return f"Which {_noun(Look(), many, rng)} {'are' if many else 'is'} {adjective}?"
    if adjective is not None and many and rng.random() < 0.2:
        return _request(f"everything that is {adjective}", rng)
    target = _target(look, many, rng)
    if many:
        return _request(target, rng)
    if rng.random() < 0.2:
        return pick(rng, ("Where is {}?", "Which object is {}?")).format(target)
    return _request(target, rng)


def _superlative(query: Query, rng: Dice) -> str:
    most = pick(rng, EXTREME_WORDS[query.extreme or ""])
    noun = _noun(query.look, False, rng)
    if rng.random() < 0.3:
        return pick(rng, (f"Which {noun} is the {most}?", f"Where is the {most} {noun}?"))
    return _request(f"the {most} {noun}", rng)


def _relation(query: Query, many: bool, rng: Dice) -> str:
    anchor = "the " + _noun(query.anchor or Look(), False, rng)
    place = f"{pick(rng, SIDE_WORDS[query.side or ''])} {anchor}"
    chance = rng.random()
    if chance < 0.15 and query.look == Look():
        return f"What is {place}?"
    if chance < 0.3:
        return f"Which {_noun(query.look, many, rng)} {'are' if many else 'is'} {place}?"
    return _request(f"{_target(query.look, many, rng)} {place}", rng)


def _negation(query: Query, many: bool, rng: Dice) -> str:
    unlike = query.unlike or Look()
    adjective = _adjective(unlike)
    if adjective is None:
        return _exception(query.look, unlike, many, rng)
    chance = rng.random()
    if adjective == "striped" and chance < 0.3:
        return _request(f"{_target(query.look, many, rng)} without stripes", rng)
    if chance < 0.5:
        verb = "are" if many else "is"
        return f"Which {_noun(query.look, many, rng)} {verb} not {adjective}?"
    target = _target(query.look, many, rng)
    verb = "are" if target.startswith("all ") else "is"
    return _request(f"{target} that {verb} not {adjective}", rng)


def _exception(look: Look, unlike: Look, many: bool, rng: Dice) -> str:
    """Everything except a kind; the exception is in the plural, which fits any number of them."""
    if unlike.colour is None and unlike.size is None and unlike.texture is None and not many:
        return f"Which {_noun(look, False, rng)} is not a {unlike.shape}?"
    target = "everything" if look == Look() else f"all {_noun(look, True, rng)}"
    return _request(f"{target} {pick(rng, ('except', 'but'))} {_noun(unlike, True, rng)}", rng)


def _reasoning(query: Query, many: bool, rng: Dice) -> str:
    shape = query.look.shape or ""
    others = Look(None, query.look.colour, query.look.size, query.look.texture)
    one, several = pick(rng, USES[shape])
    if others == Look() and rng.random() < 0.4:
        return pick(rng, (*USE_QUESTIONS.get(shape, ()), f"What {one}?"))
    if rng.random() < 0.4:
        return f"Which {_noun(others, many, rng)} {several if many else one}?"
    target = _target(others, many, rng)
    verb = several if target.startswith("all ") else one
    return _request(f"{target} that {verb}", rng)
