"""JSON lists that are written entry by entry, and looked at in the same way."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from workers.errors import LineError
from workers.json_stream import Json, read_entries

INFO = b'{"info":{"description":"labels written by pixellm-workers"},'
"""How a file of COCO's family begins: whoever made the labels, this program only wrote them."""
MAX_PROBLEMS = 50
"""Reported of one file; a systematic mistake repeats itself for every entry."""


def write_list(file: BinaryIO, entries: Iterable[Json]) -> None:
    """Writes a list, an entry a line."""
    file.write(b"[")
    write_entries(file, entries)
    file.write(b"]\n")


def write_entries(file: BinaryIO, entries: Iterable[Json]) -> None:
    """Writes what stands between the brackets of a list."""
    for count, entry in enumerate(entries):
        file.write(b",\n" if count else b"\n")
        file.write(json.dumps(entry, separators=(",", ":")).encode("ascii"))


def check_entries(path: Path, check: Callable[[str, Json], Iterator[str]]) -> list[str]:
    """What is wrong with a file, one sentence each; one entry is held at a time.

    Args:
        path: of the file.
        check: says what is wrong with an entry, given the key of its list.
    """
    problems: list[str] = []
    try:
        with path.open("rb") as file:
            for number, entry in enumerate(read_entries(file, "the file"), start=1):
                value = entry.value
                if not isinstance(value, Mapping):
                    return [f"entry {number} is no object"]
                problems += (f"entry {number}: {each}" for each in check(entry.key, value))
                if len(problems) >= MAX_PROBLEMS:
                    return problems[:MAX_PROBLEMS]
    except LineError as error:
        problems.append(f"{error}")
    return problems
