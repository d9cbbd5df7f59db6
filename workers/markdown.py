"""Pages for people (Markdown) with words of users in them, which stay words."""

import re
from collections.abc import Iterable, Sequence

_ESCAPES = str.maketrans({each: f"&#{ord(each)};" for each in "|<>&[]`*_\\"})


def escape(text: str) -> str:
    """A text that is nothing but text, on one line; also in the cell of a table."""
    return one_line(text).translate(_ESCAPES)


def code(text: str) -> str:
    """A text as code, on one line; not for the cell of a table, where a bar ends it."""
    line = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}" if line else "(nothing)"


def block(*lines: str) -> list[str]:
    """Lines as a block of code, with an empty line behind it."""
    return [*(f"    {one_line(line)}" for line in lines), ""]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of Markdown, numbers from its second column on, with an empty line behind it."""
    rules = ["---", *["---:"] * (len(head) - 1)]
    return [*(f"| {' | '.join(cells)} |" for cells in (head, rules, *rows)), ""]


def one_line(text: str) -> str:
    """Without line breaks and other signs that can't be seen."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else "\ufffd" for each in line)
