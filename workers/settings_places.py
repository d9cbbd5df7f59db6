"""Folders, files and runs as settings take them: a place that is typed is its URI from then on."""

from typing import Annotated

from pydantic import AfterValidator
from typing_extensions import TypeAliasType

from workers.errors import SettingsError
from workers.storage.uris import normalise_uri


def read_place(text: str) -> str:
    """The URI of a folder or file as it is typed.

    Raises:
        ValueError: no store is for it; pydantic tells of it beside the flag.
    """
    try:
        return normalise_uri(text)
    except SettingsError as error:
        raise ValueError(f"{error}") from error


# What `--help` writes behind a flag, in the place of its type.
PLACE = TypeAliasType("PLACE", str)
RUN = TypeAliasType("RUN", str)
Place = Annotated[PLACE, AfterValidator(read_place)]
