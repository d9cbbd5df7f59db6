"""Pages for people (Markdown) with words of users in them, which stay words."""

import re
from collections.abc import Iterable, Sequence

_SIGNS = re.compile(
    r"""[|\[\]`*~\\]                       # of tables, links, code and emphasis
    |<(?=[A-Za-z/!?])                    # a tag
    |(?<![^\W_])_+|_+(?![^\W_])          # inside a word, _ emphasises nothing: image_missing
    |&(?=\#?\w+;)                        # an entity
    |^>                                  # a quotation
    |^[-+\#](?=[-+\#\s]|$)                # a list, a heading, a rule
    |^\d{1,9}[.)](?=\s|$)                # a numbered list
    """,
    re.VERBOSE,
)


def escape(text: str) -> str:
    r"""A text that is nothing but text, on one line; also in the cell of a table.

    By backslashes, as CommonMark has them, and only where a sign would mean something: the page is
    read as it is, too. A tag is none for any reader, be it of CommonMark or not.
    """
    return _SIGNS.sub(_escape, one_line(text))


def _escape(found: re.Match[str]) -> str:
    if found[0] == "<":
        return "&lt;"
    digits = found[0].rstrip(".)") if found[0][0].isdecimal() else ""
    return digits + "".join(f"\\{sign}" for sign in found[0][len(digits) :])


def code(text: str) -> str:
    """A text as code, on one line; not for the cell of a table, where a bar ends it."""
    line = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}" if line else "(nothing)"


def block(*lines: str) -> list[str]:
    """Lines as a block of code, with an empty line behind it."""
    return [*(f"    {one_line(line)}" for line in lines), ""]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> list[str]:
    """A table of Markdown, with an empty line behind it.

    Args:
        head: the names of its columns.
        rows: cells.
        texts: columns of words that come first; all others are numbers.
    """
    rules = ["---"] * texts + ["---:"] * (len(head) - texts)
    return [*(f"| {' | '.join(cells)} |" for cells in (head, rules, *rows)), ""]


def one_line(text: str) -> str:
    """Without line breaks and other signs that can't be seen."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else "\ufffd" for each in line)
