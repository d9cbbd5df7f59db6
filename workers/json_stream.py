"""JSON files of any size, entry by entry: only the entry at hand is held.

Read are a list, and an object whose values may be lists: `{"images": [...], "annotations": [...]}`.
"""

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from workers.errors import PlanError

Json = Mapping[str, object]
"""An object of a file, of which nothing is known yet."""
CHUNK_BYTES = 2 * 2**20
"""Read at once; an entry that is cut at its end is parsed once more."""
MAX_ENTRY_CHARS = 256 * 2**20
"""The longest entry. Else a quote that is missing would have all of the file read as one text."""
_NEAR_END = 16
"""Characters before the end of what was read, in which a cut word, number or escape is noticed."""
_WHITE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a file."""

    key: str
    """of the list that it stands in, or of the value that it is; "" in a list without one"""
    value: object
    text: str
    """as it stands in the file: a tenth of the memory of the value"""


def read_entries(file: BinaryIO, name: str) -> Iterator[Entry]:
    """Reads a file.

    Args:
        file: UTF-8.
        name: of the file, for messages.

    Raises:
        PlanError: it is not JSON, is cut off, or holds something else than a list or an object.
    """
    text = _Text(file, name)
    first = text.peek()
    if first == "[":
        yield from _read_list(text, "")
    elif first == "{":
        yield from _read_object(text)
    else:
        raise text.problem(f"it begins with {first!r}, and a list or an object is wanted")
    if rest := text.peek():
        raise text.problem(f"after its end comes {rest!r}")


def _read_list(text: "_Text", key: str) -> Iterator[Entry]:
    text.take("[")
    while text.peek() != "]":
        yield Entry(key, *text.value())
        if text.peek() != "]":
            text.take(",")
            if text.peek() == "]":
                raise text.problem("a comma stands before a ']'")
    text.take("]")


def _read_object(text: "_Text") -> Iterator[Entry]:
    text.take("{")
    while text.peek() != "}":
        key, _ = text.value()
        if not isinstance(key, str):
            raise text.problem(f"the key {key!r} is no text")
        text.take(":")
        if text.peek() == "[":
            yield from _read_list(text, key)
        else:
            yield Entry(key, *text.value())
        if text.peek() != "}":
            text.take(",")
            if text.peek() == "}":
                raise text.problem("a comma stands before a '}'")
    text.take("}")


class _Text:
    """The text of a file, of which only a window is held."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._parse = json.JSONDecoder().raw_decode
        self._window = ""
        self._at = 0
        self._gone = 0  # characters before the window
        self._ended = False

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            while self._at < len(self._window):
                if self._window[self._at] not in _WHITE:
                    return self._window[self._at]
                self._at += 1
            if not self._fill():
                return ""

    def take(self, wanted: str) -> None:
        """Goes over one character."""
        if (found := self.peek()) != wanted:
            ends = "it ends" if not found else f"{found!r} stands"
            raise self.problem(f"{ends} where {wanted!r} is expected")
        self._at += 1

    def value(self) -> tuple[object, str]:
        """The next value, and its text."""
        self.peek()
        while True:
            try:
                value, end = self._parse(self._window, self._at)
            except json.JSONDecodeError as error:
                problem = self.problem(error.msg, error.pos)  # now: reading on moves the window
                if not self._may_be_cut(error) or not self._fill():
                    raise problem from error
            except (
                ValueError,
                RecursionError,
            ) as error:  # a number of 5,000 digits; lists in lists
                raise self.problem(f"{error}") from error
            else:
                # a number at the end of the window may go on
                if end < len(self._window) or not self._fill():
                    text = self._window[self._at : end]
                    self._at = end
                    return value, text

    def problem(self, what: str, at: int | None = None) -> PlanError:
        """What is wrong, and where: here, or at a place in the window."""
        place = self._gone + (self._at if at is None else at)
        return PlanError(
            f"{self._name} is no sound JSON at character {place:,}: {what}. Did all of it arrive?"
        )

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether more of the file could mend it: else a mistake would be looked for to its end."""
        near = error.pos >= len(self._window) - _NEAR_END
        return near or error.msg.startswith("Unterminated string")

    def _fill(self) -> bool:
        """Reads on; False at the end of the file. What was gone over is let go."""
        left = len(self._window) - self._at
        if left > MAX_ENTRY_CHARS:
            raise self.problem(f"an entry of more than {MAX_ENTRY_CHARS:,} characters")
        if self._ended:
            return False
        data = self._file.read(max(CHUNK_BYTES, left))  # at least doubled: parsed again log n times
        try:
            more = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise PlanError(f"{self._name} is no UTF-8: {error.reason}") from error
        self._ended = not data
        self._gone += self._at
        self._window, self._at = self._window[self._at :] + more, 0
        return not self._ended
