"""How a tree of settings is filled from flags, variables and a file, and what is refused.

A name that means nothing is an error wherever it stands: a misspelt setting that is silently
ignored costs a night of GPUs. (pydantic-settings by itself ignores unknown variables.) All problems
are told at once, a line each.
"""

import argparse
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as SourceError

from workers.errors import SettingsError
from workers.settings_file import SettingsFile, read_settings_file, typed
from workers.settings_names import NESTED, PREFIX, fields, flag_of, leaves, nearest, variable_of

_NO_GROUP = re.compile(r'error parsing value for field "(\w+)" from source "EnvSettings')
_NO_VALUE = re.compile(r"argument (--[^:/]+): expected .*argument")
_TOO_MUCH = re.compile(r"argument (--[^:/]+)/?.*: ignored explicit argument (.*)")
_HELP = frozenset({"-h", "--help"})
_KINDS = {"int": "NUMBER", "float": "NUMBER", "str": "TEXT", "Path": "FOLDER"}
"""What `--help` writes behind a flag in the place of a type of Python's."""
_WANTED = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("tuple_type", "tuple_parsing"), "must be a text or a list of texts"),
    **dict.fromkeys(("model_type", "dict_type"), "must be a group of settings"),
    "string_type": "must be a text",
}
"""What a value must be, by pydantic's name of the problem."""
_GROUP_TYPES = frozenset({"model_type", "dict_type"})


class Verbatim:
    """Marks a setting in its `Annotated`: its flag takes values as they are, commas and all.

    Several may stand behind it, or it is given again. Flags without the mark are cut at commas.
    """


_NO_FILE = SettingsFile("", b"", {})
_file: ContextVar[SettingsFile] = ContextVar("_file", default=_NO_FILE)


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
        return cls._filled({}, arguments, program)

    @classmethod
    def _filled(cls, texts: Mapping[str, Any], arguments: Sequence[str], program: str) -> Self:
        try:
            flags = _read_flags(cls, arguments, program)
            return cls(**{"_cli_settings_source": flags, **texts})
        except ValidationError as error:
            problems = (_describe(problem, cls) for problem in error.errors(include_url=False))
            raise SettingsError("\n".join(problems)) from None
        except SourceError as error:
            raise SettingsError(_describe_source(f"{error}", cls)) from None


class SettingsTree(FlagSettings):
    """The base of a command's settings; fill it with `from_everywhere`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=NESTED,
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
        file = InitSettingsSource(settings_cls, init_kwargs=dict(_file.get().values))
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
        if not _HELP.isdisjoint(arguments):  # which is where a refusal sends people to
            return cls._filled({}, arguments, program)
        _refuse_unknown_variables(cls)
        texts, rest = _take_verbatim(cls, arguments)
        config = texts.get("config") or os.environ.get(f"{PREFIX}CONFIG")
        token = _file.set(read_settings_file(config) if config else _NO_FILE)
        try:
            return cls._filled(texts, rest, program)
        finally:
            _file.reset(token)


def _read_flags(
    model: type[BaseSettings], arguments: Sequence[str], program: str
) -> CliSettingsSource[argparse.ArgumentParser]:
    """The flags as a source of settings, with a `--help` in words of people who type."""
    source = CliSettingsSource[argparse.ArgumentParser](model, cli_prog_name=program)
    parser, known = source.root_parser, {".".join(path): field for path, field in fields(model)}
    must = [
        f"{flag_of([name])} {_say_type(each.annotation)}"
        for name, each in known.items()
        if each.is_required()
    ]
    parser.usage = f"{program} {' '.join(must)} [--flag value ...]"
    parser.description = inspect.cleandoc(model.__doc__ or "")
    for action in parser._actions:  # argparse gives them out in no other way
        if field := known.get(action.dest):
            action.help = _explain(field).replace("%", "%%")
            if isinstance(action.metavar, str):
                action.metavar = _KINDS.get(action.metavar, action.metavar)
    source(args=list(arguments))
    return source


def _say_type(annotation: object) -> str:
    """What is to stand behind a flag: the name of a type, or the words that can be chosen."""
    words = get_args(annotation) if get_origin(annotation) is Literal else ()
    return f"{{{','.join(words)}}}" if words else f"{annotation}"


def _explain(field: FieldInfo) -> str:
    """The text of a setting, and its default where that says something."""
    default = field.default
    if field.is_required():
        return f"{field.description} (required)"
    if default is None or default is False or default == ():
        return f"{field.description}"
    shown = ",".join(default) if isinstance(default, tuple) else default
    shown = f"{shown:g}" if isinstance(shown, float) else shown
    return f"{field.description} (default: {shown})"


def _take_verbatim(
    model: type[BaseModel], arguments: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Takes out what pydantic-settings would cut at commas.

    Returns:
        What was given, as a tree, and the other arguments.
    """
    free = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    paths = [path for path, field in fields(model) if Verbatim in field.metadata]
    for path in paths:
        free.add_argument(flag_of(path), action="extend", nargs="+", dest=".".join(path))
    free.add_argument("--config")
    try:
        found, rest = free.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise SettingsError(_describe_source(f"{error}", model)) from None
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
            "\n".join(
                f"unknown variable {name}{nearest(name.upper(), known, PREFIX)}" for name in unknown
            )
        )


def _describe(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """One line for one problem of pydantic's."""
    path = tuple(part for part in problem["loc"] if isinstance(part, str))
    dotted = ".".join(path)
    if problem["type"] == "missing":
        return f"{flag_of(path)} is missing; --help explains it"
    place = _file.get().place_of(path, problem["input"])
    if problem["type"] in _GROUP_TYPES and not place:
        return f"{flag_of(path)} is no setting, but a group{_nearest_flag(flag_of(path), model)}"
    if problem["type"] == "extra_forbidden":
        known = {".".join(each[:end]) for each in leaves(model) for end in range(1, len(each) + 1)}
        if dotted in known:  # with its dot as one name
            block, _, name = dotted.rpartition(".")
            return f"{place}in a file {dotted!r} is written as `{block}: {{{name}: ...}}`"
        return f"{place}unknown setting {dotted!r}{nearest(dotted, known)}"
    message = " ".join(problem["msg"].removeprefix("Value error, ").split())
    if problem["type"] != "value_error":
        wanted = _WANTED.get(problem["type"]) or f"{message[:1].lower()}{message[1:]}"
        message = f"{wanted}, not {typed(problem['input'])}"
        if problem["type"] == "string_type":
            message += ": a text with a colon, a number and a `yes` need quotes to be a text"
    if problem["type"] in _GROUP_TYPES:
        inner = next(each for each in leaves(model) if each[: len(path)] == path)[len(path)]
        message += f": its settings stand below it, indented, a line each such as `{inner}: ...`"
    name = f"{place}{dotted}" if place else flag_of(path)
    return f"{name}: {message}" if path else message


def _describe_source(message: str, model: type[BaseModel]) -> str:
    """One line for what argparse says, or for a group of settings that a variable can't give."""
    if found := _NO_GROUP.match(message):
        group = variable_of([found[1]])
        return f"{group} is no setting, but a group: give {group}{NESTED}... one by one"
    message = message.removeprefix("error parsing CLI: ")
    if found := _NO_VALUE.match(message):
        return f"{found[1]} needs a value behind it"
    if found := _TOO_MUCH.match(message):
        return f"{found[1]} takes no value, and {found[2]} stands behind it"
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown == message:
        return " ".join(message.split())
    name = unknown.split()[0].partition("=")[0]
    if not name.startswith("-"):
        return f"unexpected argument {name!r}: every setting has a flag before it"
    return f"unknown flag {name}{_nearest_flag(name, model)}"


def _nearest_flag(name: str, model: type[BaseModel]) -> str:
    flags = {flag_of(path) for path in leaves(model)} | {"--help"}
    return nearest(name, flags, "--")
