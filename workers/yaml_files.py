"""YAML that people wrote, read with errors of one line. JSON is YAML, too."""

from typing import cast

import yaml

from workers.errors import SettingsError


def read_yaml(data: str | bytes, name: str) -> object:
    """Reads one document; an empty one is None.

    Args:
        data: the file's content; bytes must be UTF-8 or UTF-16.
        name: what a message calls the file.

    Raises:
        SettingsError: it is no YAML.
    """
    try:
        return cast(object, yaml.safe_load(data))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(f"{error}".split())  # it spans lines, and names line and column
        raise SettingsError(f"{name} is no YAML: {what}") from error
