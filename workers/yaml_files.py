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
    except MemoryError:
        raise
    except Exception as error:  # only PyYAML runs inside; `!!bool foo` is a KeyError, and so on
        text = (
            f"{error}" if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: {error}"
        )
        what = " ".join(text.split())  # it spans lines, and names line and column
        raise SettingsError(f"{name} is no YAML: {what}") from error
