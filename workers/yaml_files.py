"""YAML that people wrote, read with errors of one line. JSON is YAML, too."""

import codecs
import math
import re
from collections.abc import Sequence
from typing import cast

import yaml

from workers.errors import SettingsError

QUOTED_CHARS = 60
"""Of the line where a mistake stands, in a message."""
MOST_BY_ALIASES = 10_000
"""Values that aliases may add to those that stand in a document: nine lines can say a billion."""
_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # what YAML takes for one
_NO_START = re.compile(r"found character '(.+)' that cannot start any token")
_QUOTE_IT = "put all of the text in quotes"
# What PyYAML finds, and what a person most likely did; the first that fits is told.
_MISTAKES: Sequence[tuple[str, str]] = (
    (
        "mapping values are not allowed here",
        "look at the line before: a space may be missing behind its colon, or it begins in another "
        "column",
    ),
    (
        "could not find expected ':'",
        "this is no `name: value`: a colon and a space belong behind the name",
    ),
    ("quoted scalar found unexpected", "the quote that opens here is never closed"),
    ("expected ',' or ']'", "the list that opens with '[' is not closed, or lacks a comma"),
    ("expected ',' or '}'", "the mapping that opens with '{' is not closed, or lacks a comma"),
    ("expected the node content", "a value is missing, or a bracket before it is not closed"),
    ("escape", "in double quotes a backslash means something else: take single quotes"),
    (
        "expected <block end>, but found '<scalar>'",
        "a text goes on behind its closing quote: put the other kind of quotes around all of it",
    ),
    (
        "expected <block end>, but found '-'",
        "a list item stands where a `name: value` is expected: indent it below its name",
    ),
    (
        "expected <block end>",
        "this is indented unlike the lines before: lines of one group begin in the same column",
    ),
    ("single document", "a second document begins here: a file holds one, so take out the '---'"),
    ("undefined alias", f"a '*' before a word means something else in YAML: {_QUOTE_IT}"),
    ("anchor", f"an '&' before a word means something else in YAML: {_QUOTE_IT}"),
    ("the tag", f"a '!' before a word means something else in YAML: {_QUOTE_IT}"),
)
_AT_ITS_START = ("quoted scalar", "simple key", "flow sequence", "flow mapping")
"""Where PyYAML notices these says little: a person looks for where they begin."""


def read_yaml(data: str | bytes, name: str) -> object:
    """Reads one document; an empty one is None.

    Args:
        data: the file's content; bytes must be UTF-8 or UTF-16.
        name: what a message calls the file.

    Raises:
        SettingsError: it is no YAML; with line, column and what stands there, where that is known.
    """
    try:
        text = _decode(data)
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{name} is no YAML: not {error.encoding} at byte {error.start}: save it as UTF-8"
        ) from error
    try:
        return _construct(text)
    except MemoryError:
        raise
    except yaml.MarkedYAMLError as error:
        raise SettingsError(f"{name} is no YAML: {_explain(error, text)}") from error
    except Exception as error:  # only PyYAML runs inside; `!!bool foo` is a KeyError, and so on
        what = (
            f"{error}" if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: {error}"
        )
        raise SettingsError(f"{name} is no YAML: {' '.join(what.split())}") from error


def find_place(data: bytes, path: Sequence[str]) -> str:
    """Where a name of nested mappings stands: "line 3, column 5"; empty where it is not found.

    Args:
        data: a document that `read_yaml` has read.
        path: the names, from the outermost.
    """
    node, mark = yaml.compose(_decode(data), Loader=yaml.SafeLoader), None
    for name in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = [(key, value) for key, value in pairs if key.value == name]
        if not found:
            break
        key, node = found[-1]
        mark = key.start_mark
    return _shown(mark) if mark else ""


def _construct(text: str) -> object:
    """As `yaml.safe_load`, but looks before it is built how much there will be."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _unfolded(node, {}) > len(text) + MOST_BY_ALIASES:
            raise yaml.YAMLError("its aliases (*) repeat each other to far too many values")
        return cast(object, loader.construct_document(node))
    finally:
        loader.dispose()


def _unfolded(node: yaml.Node, known: dict[int, float]) -> float:
    """Values in a node once each alias has its own copy; endless where it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is known: whoever meets it again is inside of it
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (each if isinstance(each, tuple) else (each,) for each in children)
        known[id(node)] = 1 + sum(_unfolded(part, known) for pair in parts for part in pair)
    return known[id(node)]


def _decode(data: str | bytes) -> str:
    """Without a byte order mark, which PyYAML would count as a column."""
    if isinstance(data, str):
        return data
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    """Place, what stands there, and what to do."""
    said = " ".join(f"{error.context or ''} {error.problem or ''}".split())
    mark = error.problem_mark or error.context_mark
    if error.context_mark and any(what in said for what in _AT_ITS_START):
        mark = error.context_mark
    if mark is None:
        return said
    lines = _LINE_END.split(text)
    line = lines[mark.line] if mark.line < len(lines) else ""
    return f"{_shown(mark)}, {_quote(line)}: {_advise(said, line)}"


def _advise(said: str, line: str) -> str:
    if "\t" in line[: len(line) - len(line.lstrip())] or r"'\t'" in said:
        return "there is a tab: put spaces in its place"
    if "mapping values" in said and line.count(": ") > 1:
        return f"there is a colon inside a text: {_QUOTE_IT}"
    if found := _NO_START.search(said):
        return f"no text can begin with {found[1]}: {_QUOTE_IT}"
    return next((advice for what, advice in _MISTAKES if what in said), said)


def _quote(line: str) -> str:
    text = line.strip(" ").replace("\t", r"\t")
    return f"`{text if len(text) <= QUOTED_CHARS else f'{text[:QUOTED_CHARS]}...'}`"


def _shown(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
