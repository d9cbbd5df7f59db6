"""What is asked of an image: instructions, in every form that people write them down.

One instruction is a text, or a mapping {text, id, kind, classes} with `text` required. A file of
instructions is one of

    .txt          one instruction a line
    .jsonl        one a line, a JSON string or mapping
    .json .yaml   a text, a mapping, a list of them, or {"instructions": [...]}

Side-cars (`photo.txt`, `photo.json` beside `photo.jpg`) and `_instructions.{yaml,jsonl,txt}` of a
folder are such files.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import cast

from pixellm.errors import InstructionError
from pixellm.prompts import clean_instruction
from workers.errors import RecordRejected, SettingsError
from workers.records.rejections import Reason, quote
from workers.yaml_files import read_yaml

MAX_INSTRUCTIONS = 1000
"""For one image. Each costs an answer of the model; more is a mistake in the input."""
MAX_FILE_BYTES = 2**20
"""Of a file of instructions or a side-car: 1000 instructions with 1000 characters each."""
MAX_NAME_CHARS = 200
"""Of an id, a kind or a class name, in code points: they end in every row of the table."""
_ID_DIGITS = 16
_FIELDS = frozenset({"text", "id", "kind", "classes"})


@dataclass(frozen=True, slots=True)
class Instruction:
    """One question about an image, cleaned."""

    instruction_id: str
    """the user's id, or the first 16 hex digits of the SHA-256 of `text`"""
    text: str
    """in canonical form: what `pixellm.prompts.clean_instruction` makes of it"""
    kind: str = "unspecified"
    """a word of the user's for the kind of question; it is only carried along"""
    classes: tuple[str, ...] = ()
    """names that the phrases of the answer may be sorted into"""


def make_instruction(
    text: str, *, name: str | None = None, kind: str = "unspecified", classes: tuple[str, ...] = ()
) -> Instruction:
    """Cleans one text.

    Args:
        text: what is asked, as somebody typed it.
        name: the user's id for it, if there is one.
        kind: see `Instruction`.
        classes: see `Instruction`.

    Raises:
        RecordRejected: nothing is left of it, or it is too long.
    """
    try:
        clean = clean_instruction(text)
    except InstructionError as error:
        raise RecordRejected(Reason.INSTRUCTION_INVALID, f"{error}") from error
    return Instruction(name or derive_instruction_id(clean), clean, kind, classes)


def derive_instruction_id(text: str) -> str:
    """The id of an instruction that came without one."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:_ID_DIGITS]


def read_instruction(value: object) -> Instruction:
    """Reads a text or a mapping {text, id, kind, classes}.

    Raises:
        RecordRejected: it is neither, or something in it can't be used.
    """
    if isinstance(value, str):
        return make_instruction(value)
    if not isinstance(value, Mapping):
        raise _reject(
            f"an instruction must be a text or a mapping, not {quote(value)}: a number or a `yes` "
            "is a text when it stands in quotes"
        )
    if unknown := sorted(quote(key) for key in value if key not in _FIELDS):
        raise _reject(
            f"an instruction has no field {unknown[0]}; it has {', '.join(sorted(_FIELDS))}. A "
            "text with a colon in it must stand in quotes"
        )
    text = value.get("text")
    if not isinstance(text, str):
        raise _reject(f"an instruction needs a `text`, and {quote(value)} has none")
    return make_instruction(
        text,
        name=_read_name(value.get("id"), "id"),
        kind=_read_name(value.get("kind"), "kind") or "unspecified",
        classes=read_classes(value.get("classes")),
    )


def list_instructions(value: object) -> list[object]:
    """Spreads what a record or a file holds into single, still unread instructions.

    Args:
        value: None, a text, a mapping, or a list of texts and mappings.

    Raises:
        RecordRejected: there are too many.
    """
    if value is None:
        return []
    if isinstance(value, Mapping) and "instructions" in value and "text" not in value:
        return list_instructions(value["instructions"])
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(items) > MAX_INSTRUCTIONS:
        raise _reject(f"{len(items):,} instructions for one image; the most is {MAX_INSTRUCTIONS}")
    return [item for item in items if item is not None]


def read_classes(value: object) -> tuple[str, ...]:
    """Reads class names: None, one name, or a list of them.

    Raises:
        RecordRejected: it is something else.
    """
    names = [value] if isinstance(value, str) else value
    if names is None:
        return ()
    if not isinstance(names, (list, tuple)):
        raise _reject(f"`classes` must be a list of names, not {quote(value)}")
    return tuple(name for item in names if (name := _read_name(item, "classes")))


def parse_instruction_file(data: bytes, name: str) -> tuple[Instruction, ...]:
    """Reads a file of instructions; its ending says which form it has.

    Args:
        data: the file's bytes, UTF-8.
        name: its name or URI, for the ending and for messages.

    Raises:
        RecordRejected: with the file and, where there is one, the line.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _reject(f"{name}: {len(data):,} bytes; at most {MAX_FILE_BYTES:,} are read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _reject(f"{name}: not UTF-8 at byte {error.start}") from error
    items = list(_split_file(text, name))
    if len(items) > MAX_INSTRUCTIONS:
        raise _reject(f"{name}: {len(items):,} instructions; the most is {MAX_INSTRUCTIONS}")
    return tuple(_read_at(place, item) for place, item in items)


def _split_file(text: str, name: str) -> Iterator[tuple[str, object]]:
    """Yields (place for messages, unread instruction)."""
    ending = PurePosixPath(name).suffix.lower()
    if ending in (".txt", ".jsonl"):
        # not splitlines(): it also splits at U+2028, which may stand inside a JSON string
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                place = f"{name}, line {number}"
                yield place, _parse_json(line, place) if ending == ".jsonl" else line
        return
    document = _parse_yaml(text, name) if ending in (".yaml", ".yml") else _parse_json(text, name)
    for number, item in enumerate(list_instructions(document), start=1):
        yield f"{name}, instruction {number}", item


def _read_at(place: str, item: object) -> Instruction:
    try:
        return read_instruction(item)
    except RecordRejected as error:
        raise _reject(f"{place}: {error.message}") from error


def _parse_json(text: str, place: str) -> object:
    try:
        return cast(object, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise _reject(f"{place}: not JSON: {error}") from error


def _parse_yaml(text: str, name: str) -> object:
    try:
        return read_yaml(text, name)
    except SettingsError as error:
        raise _reject(f"{error}") from error


def _read_name(value: object, field: str) -> str | None:
    """An id, kind or class name; numbers are taken as their digits."""
    if value is None:
        return None
    long = isinstance(value, int) and value.bit_length() > 4 * MAX_NAME_CHARS
    if isinstance(value, bool) or not isinstance(value, (str, int)) or long:
        raise _reject(f"`{field}` must be a text, not {quote(value)}")
    name = " ".join(str(value).split())
    if len(name) > MAX_NAME_CHARS:
        raise _reject(f"`{field}` has {len(name)} characters; the most is {MAX_NAME_CHARS}")
    return name or None


def _reject(message: str) -> RecordRejected:
    return RecordRejected(Reason.INSTRUCTION_INVALID, message)
