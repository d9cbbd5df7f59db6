"""The category of a mask: one for each phrase, one for all, or what a user's file says.

A file (JSON or YAML) maps a phrase or a requested class to a category: its name, its id, or both.

    {"red mug": "mug", "blue mug": "mug", "plate": {"id": 7, "name": "dish"}, "*": "other"}

"*" is what nothing else fits; without it, masks that no line fits are left out and counted.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, cast

from workers.errors import LineError, SettingsError
from workers.labels.origins import Origin
from workers.labels.schema import LabelRow, TargetRow
from workers.labels.targets import normalise_phrase
from workers.storage.stores import open_store
from workers.storage.uris import normalise_uri
from workers.yaml_files import read_yaml

EVERYTHING_ELSE = "*"
OBJECT = "object"
"""The category of what has none, and of all masks where one is enough."""


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
    if rule == "phrase" and target.category and target.category_id is not None:
        return target.category  # of an imported file, as it is written there
    return _find((target.category, target.phrase, instruction), rule)


def name_asked(row: LabelRow, rule: Categories) -> str | None:
    """The category that a question asks for; None where the user's file has no line for it."""
    if rule == "phrase" and (own := find_own_category(row)):
        return own[0]
    return _find((_only_class(row), row.instruction), rule)


def name_absent(row: LabelRow, rule: Categories) -> str | None:
    """The category that there is nothing of where a question found nothing.

    None where that is not known: an image without a dog may have another `animal`, or `object`.
    """
    name = None if rule == "object" else name_asked(row, rule)
    if not isinstance(rule, CategoryMap):
        return name
    lines = [phrase for phrase, category in rule.names.items() if category == name]
    return name if len(lines) == 1 and lines != [EVERYTHING_ELSE] else None


def find_own_category(row: LabelRow) -> tuple[str, int] | None:
    """Name and id of the category that was asked for, where the file it came from has one."""
    name, number = _only_class(row), Origin.of(row).category_id
    return None if name is None or number is None else (name, number)


def _only_class(row: LabelRow) -> str | None:
    asked = row.requested_classes or ()
    return asked[0] if len(asked) == 1 else None


def _find(called: Iterable[str | None], rule: Categories) -> str | None:
    if rule == "object":
        return OBJECT
    names = [name for each in called if (name := normalise_phrase(each or ""))]
    if isinstance(rule, CategoryMap):
        found = (rule.names[name] for name in names if name in rule.names)
        return next(found, rule.names.get(EVERYTHING_ELSE))
    return names[0] if names else OBJECT


@dataclass(slots=True)
class GivenIds:
    """The ids that categories have in the files that labels were imported from."""

    _of: dict[str, set[int]] = field(default_factory=dict)

    def add(self, name: str, number: int) -> None:
        """Takes in what one label says."""
        self._of.setdefault(name, set()).add(number)

    def kept(self) -> dict[str, int]:
        """Category -> id, where a category has one id, and no other has the same."""
        times = Counter(number for numbers in self._of.values() for number in numbers)
        single = {name: min(ids) for name, ids in self._of.items() if len(ids) == 1}
        return {name: id_ for name, id_ in single.items() if id_ >= 0 and times[id_] == 1}

    def spell(self, names: Iterable[str]) -> dict[str, str]:
        """Name -> as a file writes it: `traffic light`, which a model said, is its `Traffic Light`.

        Only names that are written in another way are in it.
        """
        written: dict[str, list[str]] = {}
        for name in self._of:
            written.setdefault(normalise_phrase(name), []).append(name)
        others = (name for name in names if name not in self._of)
        return {name: written[name][0] for name in others if len(written.get(name, ())) == 1}


def number_categories(
    names: Collection[str], rule: Categories, given: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Category -> id. All categories of a user's file are listed, also those without a mask.

    Args:
        names: of categories.
        rule: how masks are sorted; a user's file may give ids.
        given: ids that categories should have where the rule is "phrase".
    """
    numbers = dict(given or {}) if rule == "phrase" else {}
    others = set(names)
    if isinstance(rule, CategoryMap):
        numbers, others = dict(rule.ids), {*names, *rule.names.values()}
    taken = set(numbers.values())
    free = (number for number in count(1) if number not in taken)
    for name in sorted(others - numbers.keys()):
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
    is_id = isinstance(number, int) and not isinstance(number, bool) and number >= 0
    if isinstance(name, str) and name and (number is None or is_id):
        return name, cast(int | None, number)
    raise SettingsError(
        f"{where}: {phrase!r} leads to {value!r}; give a name, an id from 0, or both as"
        ' {"id": 7, "name": "dish"}'
    )
