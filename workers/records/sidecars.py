"""Texts that lie beside one image: `photo.txt` or `photo.json` beside `photo.jpg`.

A .txt holds an instruction a line. A .json holds the keys of a record without its image, as a line
of JSON does ({"instructions": [...], "id": ...}), or just a text, or a list of instructions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.errors import RecordRejected
from workers.records.instructions import MAX_FILE_BYTES, list_instructions
from workers.records.rejections import Reason

SIDECAR_ENDINGS = frozenset({"json", "txt"})


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a side-car says."""

    values: Mapping[str, object] = field(default_factory=dict)
    """keys of a record"""
    texts: tuple[object, ...] = ()
    """unread instructions"""


def read_sidecar(data: bytes, name: str) -> Sidecar:
    """Reads a side-car; its ending says which form it has.

    Raises:
        RecordRejected: it is too long, not UTF-8, or not JSON.
    """
    if len(data) > MAX_FILE_BYTES:
        message = f"{name}: more than {MAX_FILE_BYTES:,} bytes"
        raise RecordRejected(Reason.RECORD_BROKEN, message)
    try:
        text = data.decode("utf-8-sig")
        if name.lower().endswith(".txt"):
            return Sidecar(texts=tuple(line for line in text.split("\n") if line.strip()))
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordRejected(Reason.RECORD_BROKEN, f"{name}: {error}") from error
    if isinstance(value, dict):
        return Sidecar(values=value)
    return Sidecar(texts=tuple(list_instructions(value)))
