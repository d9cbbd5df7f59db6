"""The category of a mask: one for each phrase, one for all, or what a user's file says.

A file (JSON or YAML) maps a phrase or a requested class to a category: its name, its id, or both.

    {"red mug": "mug", "blue mug": "mug", "plate": {"id": 7, "name": "dish"}, "*": "other"}

"*" is what nothing else fits; without it, masks that no line fits are left out and counted.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal, cast

from workers.errors import LineError, SettingsError
from workers.labels.schema import TargetRow
from workers.labels.targets import normalise_phrase
from workers.storage.stores import open_store
from workers.storage.uris import normalise_uri
from workers.yaml_files import read_yaml

EVERYTHING_ELSE = "*"
OBJECT = "object"


@dataclass(frozen=True, slots=True)
class CategoryMap:
    """A user's file."""

    names: Mapping[str, str]
    """normalised phrase or class -> category"""
    ids: Mapping[str, int]
    """category -> id, for those that the file gives an id"""


Categories = Literal["phrase", "object"] | CategoryMap
"""How masks are sorted."""
_RULES: dict[str, Literal["phrase", "object"]] = {"phrase": "phrase", "object": "object"}


def name_category(target: TargetRow, instruction: str, rule: Categories) -> str | None:
    """The category of one mask; None where the user's file has no line for it.

    What is looked at, until something is found: the requested class, the phrase, the instruction.
    """
    if rule == "object":
        return OBJECT
    called = (
        normalise_phrase(name or "") for name in (target.category, target.phrase, instruction)
    )
    names = [name for name in called if name]
    if isinstance(rule, CategoryMap):
        found = (rule.names[name] for name in names if name in rule.names)
        return next(found, rule.names.get(EVERYTHING_ELSE))
    return names[0] if names else OBJECT


def number_categories(names: Iterable[str], rule: Categories) -> dict[str, int]:
    """Category -> id. All categories of a user's file are listed, also those without a mask."""
    if not isinstance(rule, CategoryMap):
        return {name: number for number, name in enumerate(sorted(set(names)), start=1)}
    numbers = dict(rule.ids)
    taken = set(numbers.values())
    free = (number for number in count(1) if number not in taken)
    for name in sorted({*names, *rule.names.values()} - numbers.keys()):
        numbers[name] = next(free)
    return dict(sorted(numbers.items(), key=lambda item: item[1]))


def read_categories(text: str) -> Categories:
    """Which rule a user means: "phrase", "object", or the path or URI of a file.

    Raises:
        SettingsError: it is neither, or the file can't be read.
    """
    if rule := _RULES.get(text):
        return rule
    uri = normalise_uri(text)
    try:
        data = open_store(uri).get(uri)
    except LineError as error:
        raise SettingsError(
            f"--categories {text!r} is neither 'phrase' nor 'object' nor a file: {error}"
        ) from error
    return read_category_map(data, text)


def read_category_map(data: bytes, name: str) -> CategoryMap:
    """Reads a user's file.

    Args:
        data: JSON or YAML (JSON is YAML).
        name: of the file, for messages.

    Raises:
        SettingsError: it is no mapping, or gives an id twice.
    """
    try:
        lines = json.loads(data) if name.endswith(".json") else read_yaml(data, name)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{name} is no JSON: {error}") from error
    if not isinstance(lines, dict) or not lines:
        raise SettingsError(f'{name} must be a mapping such as {{"red mug": "mug"}}')
    names: dict[str, str] = {}
    ids: dict[str, int] = {}
    for phrase, value in lines.items():
        category, number = _read_line(phrase, value, name)
        names[EVERYTHING_ELSE if phrase == EVERYTHING_ELSE else normalise_phrase(phrase)] = category
        if number is not None and ids.setdefault(category, number) != number:
            raise SettingsError(f"{name}: {category!r} has the ids {ids[category]} and {number}")
    if len(set(ids.values())) < len(ids):
        raise SettingsError(f"{name}: two categories share an id: {ids!r}")
    return CategoryMap(names, ids)


def _read_line(phrase: object, value: object, where: str) -> tuple[str, int | None]:
    if not isinstance(phrase, str):
        raise SettingsError(f"{where}: {phrase!r} is no phrase; put it in quotes")
    key = "name" if isinstance(value, str) else "id"
    entry: dict[str, object] = value if isinstance(value, dict) else {key: value}
    name, number = entry.get("name", phrase), entry.get("id")
    is_id = isinstance(number, int) and not isinstance(number, bool) and number > 0
    if isinstance(name, str) and name and (number is None or is_id):
        return name, cast(int | None, number)
    raise SettingsError(
        f"{where}: {phrase!r} leads to {value!r}; give a name, an id from 1, or both as"
        ' {"id": 7, "name": "dish"}'
    )
