"""What a drop may say of itself in its `_pixellm.yaml`: a few settings, and no others.

Whoever can drop files decides what is asked of them and how their lists are read. Where labels go,
which model is used, what may be read besides the drop and what a run costs stays with whoever runs
the watcher.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from workers.errors import ObjectMissing, SettingsError
from workers.settings import FieldNames, Texts
from workers.settings_file import typed
from workers.settings_names import nearest
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown
from workers.watching.drops import SETTINGS_NAME, Drop
from workers.watching.settings import Forms, WatchSettings
from workers.yaml_files import find_place, read_yaml

MAX_BYTES = 64 * 2**10
"""Of such a file; the longest that makes sense is some lines."""
MOST_TOLD = 5
"""Mistakes in a message: each is looked up in the file anew, and nobody reads a thousand."""
QUOTED_CHARS = 60
"""Of a value that is wrong, in a message."""


class _Reading(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    fields: FieldNames = FieldNames()


class DropSettings(BaseModel):
    """All that a drop may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    instruction: Texts = ()
    """asked in the place of the watcher's own"""
    reading: _Reading = _Reading()
    """which keys or columns of its files mean what"""
    exports: Forms | None = None
    """forms that its labels are also written in, in the place of the watcher's own"""
    coco: bool | None = None
    """the same, for COCO alone"""


def settings_of(store: Store, drop: Drop, settings: WatchSettings) -> WatchSettings:
    """The watcher's settings for one drop: its places, and what it says of itself.

    Raises:
        SettingsError: its file says what it may not, or can't be read as settings.
        StorageError: the store failed.
    """
    own = read_drop_settings(store, drop)
    changed: dict[str, Any] = {
        "input": drop.input,
        "output": join_uri(settings.output, drop.name),
        "instruction": own.instruction or settings.instruction,
    }
    if own.exports is not None or own.coco is not None:
        changed |= {"exports": own.exports or (), "coco": bool(own.coco)}
    if own.reading.fields.model_fields_set:
        fields = settings.reading.fields.model_copy(update=_given(own.reading.fields))
        changed["reading"] = settings.reading.model_copy(update={"fields": fields})
    return settings.model_copy(update=changed)


def read_drop_settings(store: Store, drop: Drop) -> DropSettings:
    """What the file of a drop says; nothing where it has none.

    Raises:
        SettingsError: with the file, the place in it, and what may stand there.
    """
    uri = join_uri(drop.input, SETTINGS_NAME)
    try:
        data = store.get(uri, length=MAX_BYTES + 1)
    except ObjectMissing:
        return DropSettings()
    name = shown(uri)
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{name} has more than {MAX_BYTES:,} bytes; it holds a few settings")
    values = read_yaml(data, name)
    if values is not None and not isinstance(values, dict):
        raise SettingsError(f"{name} must hold settings such as `instruction: ...`, a line each")
    try:
        return DropSettings.model_validate(values or {})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [_describe(each, data, name) for each in problems[:MOST_TOLD]]
        if len(problems) > MOST_TOLD:
            lines.append(f"and {len(problems) - MOST_TOLD:,} more")
        raise SettingsError("\n".join(lines)) from None


def _meant(name: str, known: Sequence[str]) -> str:
    """What was meant; whoever drops files has no `--help`."""
    said = nearest(name, known)
    return said if "did you mean" in said else ""


def _given(fields: FieldNames) -> Mapping[str, Any]:
    return {name: getattr(fields, name) for name in fields.model_fields_set}


def _describe(problem: Mapping[str, Any], data: bytes, name: str) -> str:
    path = tuple(f"{part}" for part in problem["loc"])
    place = find_place(data, [part for part in path if not part.isdecimal()])
    at = f"{name}, {place}: " if place else f"{name}: "
    known = ("instruction", "reading.fields", "exports", "coco")
    if problem["type"] == "extra_forbidden":
        dotted = ".".join(path)
        return (
            f"{at}a drop can't set {dotted!r}{_meant(dotted, known)}: it may say"
            f" {', '.join(known)}; all else is set by whoever runs the watcher"
        )
    value = typed(problem["input"])
    quoted = value if len(value) <= QUOTED_CHARS else f"{value[:QUOTED_CHARS]}..."
    return f"{at}{'.'.join(path)}: {problem['msg']}, not {quoted}"
