"""Values of a config file, looked at before a model is made of them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from pixellm.errors import ConfigError

MOST_WHOLE = 2**31 - 1
"""Of a size: more than any tensor has, and what the libraries below can hold."""
VALUE_CHARS = 40
"""Of a wrong value that is quoted."""
_KINDS: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    list: "a list",
    NoneType: "null",
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ConfigError names the file when it can't be had."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{str(path)!r} is missing: is this a model folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{str(path)!r} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{str(path)!r} holds a {type(value).__name__}, not a JSON object")
    return value


def read_whole(keys: Mapping[str, Any], key: str, where: str, least: int = 1) -> int:
    """A whole number.

    Args:
        keys: the config.
        key: that it has.
        where: the name of its file.
        least: that the number can be; below 0, any can be.

    Raises:
        ConfigError: it is something else; the message quotes it.
    """
    value = keys[key]
    if type(value) is int and least <= value <= MOST_WHOLE:
        return value
    kind = "a whole number" if least < 0 else f"a whole number from {least} on"
    raise wrong_value(key, value, where, kind)


def check_values(
    keys: Mapping[str, Any], sizes: Sequence[str], numbers: Sequence[str], where: str
) -> None:
    """Looks at those values that are there.

    Args:
        keys: the config.
        sizes: keys of whole numbers from 1 on.
        numbers: keys of numbers above 0.
        where: the name of its file.

    Raises:
        ConfigError: one is something else.
    """
    for key in sizes:
        if key in keys:
            read_whole(keys, key, where)
    for key in numbers:
        value = keys.get(key, 1)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise wrong_value(key, value, where, "a number above 0")


def check_kinds(keys: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], where: str) -> None:
    """Looks at the kinds of those values that are there.

    Args:
        keys: the config.
        kinds: by key, what its value can be.
        where: the name of its file.

    Raises:
        ConfigError: one is something else.
    """
    for key, kind in kinds.items():
        if key in keys and type(keys[key]) not in kind:
            names = " or ".join(_KINDS[each] for each in kind)
            raise wrong_value(key, keys[key], where, names)


def wrong_value(key: str, value: object, where: str, kind: str) -> ConfigError:
    """What to raise where a value is of another kind."""
    quoted = f"{value!r}"[:VALUE_CHARS]
    return ConfigError(
        f"{where} has {quoted} as {key!r}, which must be {kind}: take the file that belongs to the"
        " weights"
    )
