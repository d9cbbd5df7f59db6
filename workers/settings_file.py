"""The YAML file of `--config`: its values, and where in it each of them stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.errors import LineError, SettingsError
from workers.storage.stores import open_store
from workers.storage.uris import normalise_uri, shown
from workers.yaml_files import find_place, read_yaml


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What was read."""

    name: str
    """as a message calls it"""
    data: bytes
    values: Mapping[str, Any]
    """a tree as the settings are one; nothing in it is checked yet"""

    def place_of(self, path: Sequence[str], value: object) -> str:
        """File, line and column before a message; empty when the value isn't from this file."""
        found: Any = self.values
        for name in path:
            if not isinstance(found, Mapping) or name not in found:
                return ""
            found = found[name]
        is_item = isinstance(found, list) and value in found
        if found != value and not is_item:
            return ""
        place = find_place(self.data, path)
        return f"{self.name}, {place}: " if place else f"{self.name}: "  # none behind a merge (<<)


def read_settings_file(config: str) -> SettingsFile:
    """Reads the file; an empty one has no values.

    Raises:
        SettingsError: it can't be read, or is no mapping of names.
    """
    try:
        uri = normalise_uri(config)
        data = open_store(uri).get(uri)
    except LineError as error:
        raise SettingsError(f"--config {config!r} can't be read: {error}") from None
    name = f"--config {shown(uri)}"
    values = read_yaml(data, name)
    if values is None:
        values = {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise SettingsError(
            f"{name} must hold settings, a line each such as `min_replicas: 2` (with a space behind"
            f" the colon), not {typed(values)}"
        )
    return SettingsFile(name, data, values)


def typed(value: object) -> str:
    """A value for a message, as somebody typed it."""
    words = {None: "nothing", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    try:
        return repr(value)
    except ValueError:  # Python refuses to write down more than 4300 digits
        return "a number with thousands of digits"
