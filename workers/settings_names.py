"""The names of settings: in the tree, as flags, as variables, and what a misspelt one may mean."""

import difflib
import re
from collections.abc import Iterable, Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

PREFIX = "PIXELLM_"
NESTED = "__"
_LIKENESS = 0.7
"""Of names, 0 to 1: a letter or two of five are wrong. Below, guesses are far-fetched."""
_SHORTEST, _LONGER = 3, 3
"""Letters of a part of a name that says which one is meant, and how many such names are told."""
SettingPath = tuple[str, ...]
"""Of a setting in the tree: ("reading", "roots")."""


def leaves(model: type[BaseModel]) -> Iterator[SettingPath]:
    """The path of every setting in a tree."""
    return (path for path, _ in fields(model))


def fields(
    model: type[BaseModel], above: SettingPath = ()
) -> Iterator[tuple[SettingPath, FieldInfo]]:
    """Every setting in a tree, with its path."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        called = field.alias or name  # `--from` can't be the name of a field: Python keeps it
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, (*above, called))
        else:
            yield (*above, called), field


def flag_of(path: Iterable[str]) -> str:
    """How a setting is given on the command line."""
    return "--" + ".".join(path).replace("_", "-")


def variable_of(path: Iterable[str]) -> str:
    """How a setting is given in the environment."""
    return PREFIX + NESTED.join(path).upper()


def nearest(name: str, known: Iterable[str], start: str = "") -> str:
    """What was meant, where that is likely; what all names start with makes them no more alike."""
    meant, ends = name.removeprefix(start), sorted(each.removeprefix(start) for each in known)
    near = difflib.get_close_matches(meant, ends, n=1, cutoff=_LIKENESS) or _longer(meant, ends)
    if near:
        *others, last = [start + each for each in near]
        first = f"{', '.join(others)} or " if others else ""
        return f"; did you mean {first}{last}?"
    if start != PREFIX:
        return "; --help lists all"
    return f"; --help lists all: {PREFIX}REPLICA{NESTED}PRECISION is --replica.precision there"


def _longer(part: str, names: Iterable[str]) -> list[str]:
    """Some names that hold it from the beginning of a word on: `price` in `price-per-gpu-hour`."""
    begins = re.compile(rf"(^|[-._]){re.escape(part)}")
    found = [each for each in names if begins.search(each)]
    return found[:_LONGER] if len(part) >= _SHORTEST else []
