"""Making up queries about a scene, at random and unchecked: `questions` keeps those that are good.

For a query that is to match something (`hit`), a description copies one thing. For one that is to
match nothing, each attribute is copied from another thing, so that what comes out nearly fits.
"""

from typing import Final

from pixellm.drawn.chance import Dice, pick
from pixellm.drawn.meaning import EXTREMES, SIDES, Look, Query
from pixellm.drawn.scenes import COLOURS, SIZES, TEXTURES, Scene
from pixellm.drawn.shapes import SHAPES

WORLDLY: Final = 0.3
"""How often a description that is to fit nothing has a value that need not be in the scene."""
FOREIGN_ANCHOR: Final = 0.15
"""How often a relation that matches nothing refers to something that is not there at all."""
EXCEPTIONS: Final = 0.25
"""How often a negation is an exception."""

Names = tuple[str, ...]
_ONE: Final[tuple[Names, ...]] = (
    ("shape",),
    ("colour",),
    ("shape", "colour"),
    ("shape", "colour"),
    ("shape", "size"),
    ("shape", "texture"),
    ("colour", "size"),
    ("colour", "texture"),
    ("shape", "colour", "size"),
    ("shape", "colour", "texture"),
    ("shape", "size", "texture"),
    ("shape", "colour", "size", "texture"),
)
_KIND: Final[tuple[Names, ...]] = (
    ("shape",),
    ("shape",),
    ("colour",),
    ("colour",),
    ("size",),
    ("texture",),
    ("shape", "colour"),
    ("shape", "size"),
    ("shape", "texture"),
    ("colour", "size"),
    ("colour", "texture"),
)
_HEAD: Final[tuple[Names, ...]] = (
    (), (), (), ("shape",), ("shape",), ("colour",), ("colour",), ("texture",), ("shape", "colour"),
)  # fmt: skip
_EXTRA: Final[tuple[Names, ...]] = ((), (), (), ("colour",), ("size",), ("texture",))
_EXCEPT: Final[tuple[Names, ...]] = (("shape",), ("shape",), ("shape", "colour"))
_NOT: Final[tuple[tuple[Names, Names], ...]] = (
    ((), ("colour",)),
    ((), ("texture",)),
    ((), ("size",)),
    (("shape",), ("colour",)),
    (("shape",), ("texture",)),
    (("shape",), ("size",)),
    (("colour",), ("texture",)),
    (("texture",), ("colour",)),
)
_RANKED: Final[tuple[Names, ...]] = (
    (), (), (), ("shape",), ("shape",), ("colour",), ("colour",), ("texture",), ("shape", "colour"),
)  # fmt: skip
_WORLD: Final[dict[str, tuple[str, ...]]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "texture": TEXTURES,
}


def make_query(kind: str, scene: Scene, rng: Dice, hit: bool) -> Query:
    """Make up a query of a kind that may well match something (or nothing, if not `hit`)."""
    match kind:
        case "attribute":
            return Query(kind, _look(scene, rng, pick(rng, _ONE), hit))
        case "all":
            return Query(kind, _look(scene, rng, pick(rng, _KIND), hit))
        case "superlative":
            look = _look(scene, rng, pick(rng, _RANKED), hit)
            return Query(kind, look, extreme=pick(rng, EXTREMES))
        case "relation":
            return _relation(scene, rng, hit)
        case "negation":
            return _negation(scene, rng, hit)
        case "reasoning":
            return Query(kind, _look(scene, rng, ("shape", *pick(rng, _EXTRA)), hit))
    raise ValueError(f"kind {kind!r} can't be made up; it is none of the ways of asking")


def _look(scene: Scene, rng: Dice, names: Names, hit: bool) -> Look:
    """A description by the attributes named: of one thing, or put together from several."""
    thing = pick(rng, scene.things)
    values: dict[str, str] = {}
    for name in names:
        if not hit and rng.random() * len(names) < WORLDLY:
            values[name] = pick(rng, _WORLD[name])
        else:
            values[name] = getattr(thing if hit else pick(rng, scene.things), name)
    return Look(**values)


def _relation(scene: Scene, rng: Dice, hit: bool) -> Query:
    foreign = not hit and rng.random() < FOREIGN_ANCHOR
    anchor = _look(scene, rng, pick(rng, _ONE), hit=not foreign)
    look = _look(scene, rng, pick(rng, _HEAD), hit=True)
    return Query("relation", look, side=pick(rng, SIDES), anchor=anchor)


def _negation(scene: Scene, rng: Dice, hit: bool) -> Query:
    """Not of some colour, size or texture; or everything except some shape."""
    if rng.random() < EXCEPTIONS:
        return Query("negation", Look(), unlike=_look(scene, rng, pick(rng, _EXCEPT), hit=True))
    kept, barred = pick(rng, _NOT)
    if hit:
        return Query(
            "negation", _look(scene, rng, kept, hit), unlike=_look(scene, rng, barred, hit)
        )
    # Nothing is left when all that fit are barred, or when nothing fits: start from one thing.
    thing = (pick(rng, scene.things),)
    single = Scene(scene.seed, thing, scene.background)
    return Query(
        "negation",
        _look(single, rng, kept, hit=rng.random() < 0.5),
        unlike=_look(single, rng, barred, hit=True),
    )
