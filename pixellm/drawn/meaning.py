"""What a question means: a small symbolic query, and the things of a scene that it selects."""

from dataclasses import dataclass
from typing import Final

from pixellm.drawn.scenes import Scene, Thing

SIDES: Final = ("left", "right", "above", "below")
EXTREMES: Final = ("largest", "smallest", "leftmost", "rightmost", "topmost", "lowest")

PLACE_MARGIN: Final = 8 / 128
"""Parts of the side by which "left of" or "leftmost" must hold, else nobody could be sure of it:
half a cell of the language model's view."""
SIZE_MARGIN: Final = 1.2
"""How many times larger the largest must be than the next: small and large differ by 1.4."""


@dataclass(frozen=True, slots=True)
class Look:
    """A description by attributes; None fits anything."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    texture: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether a thing has every attribute that is named."""
        return (
            (self.shape is None or self.shape == thing.shape)
            and (self.colour is None or self.colour == thing.colour)
            and (self.size is None or self.size == thing.size)
            and (self.texture is None or self.texture == thing.texture)
        )


@dataclass(frozen=True, slots=True)
class Query:
    """The meaning of a question.

    Attributes:
        kind: the way of asking; decides the words.
        look: what a target is.
        unlike: what a target is not (negation).
        side: one of `SIDES`, on which of the anchor's sides a target lies (relation).
        anchor: the one thing that `side` refers to.
        extreme: one of `EXTREMES`; the target is the most so among all that fit (superlative).
    """

    kind: str
    look: Look
    unlike: Look | None = None
    side: str | None = None
    anchor: Look | None = None
    extreme: str | None = None


def select(query: Query, scene: Scene) -> tuple[int, ...]:
    """The indices in `scene.things` of all targets, from left to right."""
    things = scene.things
    found = [i for i, thing in enumerate(things) if query.look.fits(thing)]
    if query.unlike is not None:
        found = [i for i in found if not query.unlike.fits(things[i])]
    if query.anchor is not None:
        anchor = find_anchor(query, scene)
        if anchor is None:
            return ()
        found = [i for i in found if i != anchor and _lies(things, i, anchor, query) > 0]
    if query.extreme is not None and found:
        found = [max(found, key=lambda i: _degree(things[i], query))]
    return tuple(sorted(found, key=lambda i: things[i].x))


def find_anchor(query: Query, scene: Scene) -> int | None:
    """The index of the one thing that a relation refers to, if there is one."""
    if query.anchor is None:
        return None
    found = [i for i, thing in enumerate(scene.things) if query.anchor.fits(thing)]
    return found[0] if len(found) == 1 else None


def is_clear(query: Query, scene: Scene) -> bool:
    """Whether the query has one right answer: a unique anchor, and all margins kept."""
    things = scene.things
    if query.anchor is not None:
        anchors = [i for i, thing in enumerate(things) if query.anchor.fits(thing)]
        if len(anchors) > 1:
            return False
        return all(
            abs(_lies(things, i, anchor, query)) >= PLACE_MARGIN
            for anchor in anchors
            for i, thing in enumerate(things)
            if i != anchor and query.look.fits(thing)
        )
    if query.extreme is not None:
        degrees = sorted(_degree(thing, query) for thing in things if query.look.fits(thing))
        return len(degrees) != 1 and (not degrees or _clearly_most(degrees, query.extreme))
    return True


def _clearly_most(degrees: list[float], extreme: str) -> bool:
    most, next_to_it = degrees[-1], degrees[-2]
    if extreme == "largest":
        return most >= SIZE_MARGIN * next_to_it
    if extreme == "smallest":  # radii with the sign turned
        return next_to_it <= SIZE_MARGIN * most
    return most - next_to_it >= PLACE_MARGIN


def _lies(things: tuple[Thing, ...], index: int, anchor: int, query: Query) -> float:
    """How far a thing lies on the side that is asked for; negative on the opposite one."""
    thing, other = things[index], things[anchor]
    match query.side:
        case "left":
            return other.x - thing.x
        case "right":
            return thing.x - other.x
        case "above":
            return other.y - thing.y
        case _:
            return thing.y - other.y


def _degree(thing: Thing, query: Query) -> float:
    """How much a thing has of what the superlative asks for."""
    match query.extreme:
        case "largest":
            return thing.radius
        case "smallest":
            return -thing.radius
        case "leftmost":
            return -thing.x
        case "rightmost":
            return thing.x
        case "topmost":
            return -thing.y
        case _:
            return thing.y
