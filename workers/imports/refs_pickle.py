"""Turns a `refs(unc).p` of RefCOCO, which is a pickle, into the JSON that an import reads.

    python -m workers.imports.refs_pickle "refs(unc).p" refs.json

A pickle is a program: opened carelessly it runs whatever its author wished. Here it is looked
through before anything of it is carried out, and refused unless all of its steps make plain values:
lists, tuples, sets, dictionaries, texts, bytes, numbers, true, false and nothing.
"""

import io
import json
import math
import pickle
import pickletools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pixellm.errors import PixelLMError
from workers.errors import PlanError, SettingsError

MAX_BYTES = 2**30
"""Of a pickle; that of RefCOCOg has some 50 MB."""
MAX_VALUES = 100_000_000
"""Written in all. A list that holds another ten times, ten deep, is 200 bytes as a pickle."""
MAX_DEPTH = 50
_STEPS = """
    PROTO FRAME STOP MARK POP POP_MARK DUP
    MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET
"""
_PLAIN = frozenset(_STEPS.split())
"""Steps that make plain values. None of them names a class, a function or a file."""
_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


class _Unpickler(pickle.Unpickler):
    """The second lock: whatever the first has overlooked finds no code to run."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside")


def read_plain_pickle(data: bytes, name: str) -> object:
    """The value of a pickle that holds nothing but plain values.

    Args:
        data: the pickle; also one of Python 2, whose texts are bytes.
        name: of the file, for messages.

    Raises:
        PlanError: it holds something else, or is damaged; nothing of it was run.
    """
    try:
        _check_steps(data)
        # the texts of Python 2 are bytes; `latin1` would make wrong letters of UTF-8
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except (pickle.UnpicklingError, ValueError, EOFError, IndexError, TypeError) as error:
        raise _refuse(name, error) from None
    except (AttributeError, KeyError, OverflowError, RecursionError, MemoryError) as error:
        raise _refuse(name, error) from None  # all that a damaged pickle makes Python raise


def to_json(value: object) -> str:
    """A plain value as JSON. Tuples and sets become lists, and keys become texts.

    Raises:
        ValueError: it is too large or too deep, refers to itself, or holds bytes that are no text.
    """
    return json.dumps(_Copy().of(value), allow_nan=False)


def _check_steps(data: bytes) -> None:
    """Looks at every step of the pickle, and carries out none."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has {len(data):,} bytes; at most {MAX_BYTES:,} are read")
    for step, argument, _ in pickletools.genops(data):
        if step.name not in _PLAIN:
            raise ValueError(f"it holds {step.name}, a step that makes no plain value")
        if step.name in _MEMO and not 0 <= int(argument or 0) <= len(data):
            raise ValueError("it wants more memory than its size can need")


class _Copy:
    """A value in the types of JSON; counts what it copies, for a pickle can hold a part twice."""

    def __init__(self) -> None:
        self._values = 0

    def of(self, value: object, depth: int = 0) -> object:
        self._values += 1
        if self._values > MAX_VALUES or depth > MAX_DEPTH:
            raise ValueError(
                f"more than {MAX_VALUES:,} values, or lists more than {MAX_DEPTH} deep"
            )
        match value:
            case None | bool() | int() | str():
                return value
            case float():
                return value if math.isfinite(value) else None
            case bytes():
                return value.decode()
            case list() | tuple():
                return [self.of(each, depth + 1) for each in value]
            case set() | frozenset():
                return sorted((self.of(each, depth + 1) for each in value), key=repr)
            case dict():
                return {self._key(key): self.of(each, depth + 1) for key, each in value.items()}
        raise ValueError(f"a {type(value).__name__} is no plain value")

    def _key(self, key: object) -> str:
        return key if isinstance(key, str) else key.decode() if isinstance(key, bytes) else f"{key}"


def _refuse(name: str, error: Exception) -> PlanError:
    why = " ".join(f"{error}".split()) or type(error).__name__
    return PlanError(
        f"{name!r} is refused, nothing of it was run: {why}. Only lists, texts and numbers are"
        " taken; get it again from a source you trust"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts one file; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if len(given) != 2:
            raise SettingsError('give two files: "refs(unc).p" refs.json')
        source, target = map(Path, given)
        value = read_plain_pickle(_read(source), str(source))
        try:
            text = to_json(value)
        except ValueError as error:
            raise _refuse(str(source), error) from None
        target.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        print(f"refs_pickle: {error}", file=sys.stderr)
        return 1
    except PixelLMError as error:
        print(f"refs_pickle: {error}", file=sys.stderr)
        return 2
    print(f"wrote {target}: {len(value) if isinstance(value, list) else 1:,} references")
    return 0


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


if __name__ == "__main__":
    sys.exit(main())
