"""How a tree of settings is filled from flags, variables and a file, and what is refused.

A name that means nothing is an error wherever it stands: a misspelt setting that is silently
ignored costs a night of GPUs. (pydantic-settings by itself ignores unknown variables.) All problems
are told at once, a line each.
"""

import argparse
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Self

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as SourceError

from workers.errors import LineError, SettingsError
from workers.storage.stores import open_store
from workers.storage.uris import normalise_uri, shown
from workers.yaml_files import read_yaml

PREFIX = "PIXELLM_"
_NESTED = "__"
_NO_GROUP = re.compile(r'error parsing value for field "(\w+)" from source "EnvSettings')
SettingPath = tuple[str, ...]
"""Of a setting in the tree: ("reading", "roots")."""


class Verbatim:
    """Marks a setting in its `Annotated`: its flag takes values as they are, commas and all.

    Several may stand behind it, or it is given again. Flags without the mark are cut at commas.
    """


_file_values: ContextVar[Mapping[str, Any] | None] = ContextVar("_file_values", default=None)


class FlagSettings(BaseSettings):
    """The base of a command's settings that only flags can give; fill it with `from_flags`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        cli_exit_on_error=False,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but the flags."""
        return (init_settings,)

    @classmethod
    def from_flags(cls, arguments: Sequence[str], program: str) -> Self:
        """Fills the settings; `--help` prints and exits.

        Args:
            arguments: of the command line.
            program: what to type, for `--help`.

        Raises:
            SettingsError: with a line for each problem.
        """
        return cls._filled({"_cli_parse_args": list(arguments), "_cli_prog_name": program})

    @classmethod
    def _filled(cls, values: Mapping[str, Any]) -> Self:
        try:
            return cls(**values)
        except ValidationError as error:
            problems = (_describe(problem, cls) for problem in error.errors(include_url=False))
            raise SettingsError("\n".join(problems)) from None
        except SourceError as error:
            raise SettingsError(_describe_source(f"{error}", cls)) from None


class SettingsTree(FlagSettings):
    """The base of a command's settings; fill it with `from_everywhere`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=_NESTED,
        nested_model_default_partial_update=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables, then the file; the flags come before both by themselves."""
        file = InitSettingsSource(settings_cls, init_kwargs=dict(_file_values.get() or {}))
        return init_settings, env_settings, file

    @classmethod
    def from_everywhere(cls, arguments: Sequence[str], program: str) -> Self:
        """Fills the tree; `--help` prints and exits.

        Args:
            arguments: of the command line.
            program: what to type, for `--help`.

        Raises:
            SettingsError: with a line for each problem.
        """
        _refuse_unknown_variables(cls)
        texts, rest = _take_verbatim(cls, arguments)
        config = texts.get("config") or os.environ.get(f"{PREFIX}CONFIG")
        token = _file_values.set(_read_file(config) if config else None)
        try:
            return cls._filled({"_cli_parse_args": rest, "_cli_prog_name": program, **texts})
        finally:
            _file_values.reset(token)


def leaves(model: type[BaseModel]) -> Iterator[SettingPath]:
    """The path of every setting in a tree."""
    return (path for path, _ in _fields(model))


def _fields(
    model: type[BaseModel], above: SettingPath = ()
) -> Iterator[tuple[SettingPath, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, (*above, name))
        else:
            yield (*above, name), field


def flag_of(path: Iterable[str]) -> str:
    """How a setting is given on the command line."""
    return "--" + ".".join(path).replace("_", "-")


def variable_of(path: Iterable[str]) -> str:
    """How a setting is given in the environment."""
    return PREFIX + _NESTED.join(path).upper()


def _take_verbatim(
    model: type[BaseModel], arguments: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Takes out what pydantic-settings would cut at commas.

    Returns:
        What was given, as a tree, and the other arguments.
    """
    free = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    paths = [path for path, field in _fields(model) if Verbatim in field.metadata]
    for path in paths:
        free.add_argument(flag_of(path), action="extend", nargs="+", dest=".".join(path))
    free.add_argument("--config")
    try:
        found, rest = free.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise SettingsError(f"{error}") from None
    tree: dict[str, Any] = {"config": found.config} if found.config is not None else {}
    for path in paths:
        if (values := getattr(found, ".".join(path))) is not None:
            place = tree
            for name in path[:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = values
    return tree, rest


def _refuse_unknown_variables(model: type[BaseModel]) -> None:
    paths = list(leaves(model))
    known = {variable_of(path[:end]) for path in paths for end in range(1, len(path) + 1)}
    unknown = sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )
    if unknown:
        raise SettingsError(
            "\n".join(f"unknown variable {name}{_nearest(name.upper(), known)}" for name in unknown)
        )


def _read_file(config: str) -> Mapping[str, Any]:
    try:
        uri = normalise_uri(config)
        data = open_store(uri).get(uri)
    except LineError as error:
        raise SettingsError(f"--config {config!r} can't be read: {error}") from None
    values = read_yaml(data, f"--config {shown(uri)}")
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise SettingsError(f"--config {shown(uri)} must be a mapping of settings to values")
    return values


def _describe(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """One line for one problem of pydantic's."""
    path = tuple(part for part in problem["loc"] if isinstance(part, str))
    if problem["type"] == "missing":
        return f"{flag_of(path)} is missing"
    if problem["type"] == "extra_forbidden":
        known = {".".join(each[:end]) for each in leaves(model) for end in range(1, len(each) + 1)}
        return f"unknown setting {'.'.join(path)!r}{_nearest('.'.join(path), known)}"
    message = " ".join(problem["msg"].removeprefix("Value error, ").split())
    if problem["type"] == "value_error":
        return f"{flag_of(path)}: {message}" if path else message
    return f"{flag_of(path)}: {message[:1].lower()}{message[1:]}, not {_quote(problem['input'])}"


def _quote(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python refuses to write down more than 4300 digits
        return "a number with thousands of digits"


def _describe_source(message: str, model: type[BaseModel]) -> str:
    """One line for what argparse says, or for a group of settings that a variable can't give."""
    if found := _NO_GROUP.match(message):
        group = variable_of([found[1]])
        return f"{group} is no setting, but a group: give {group}{_NESTED}... one by one"
    message = message.removeprefix("error parsing CLI: ")
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown == message:
        return " ".join(message.split())
    name = unknown.split()[0].partition("=")[0]
    if not name.startswith("-"):
        return f"unexpected argument {name!r}: every setting has a flag before it"
    flags = {flag_of(path) for path in leaves(model)} | {"--help"}
    return f"unknown flag {name}{_nearest(name, flags)}"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else "; see --help"
