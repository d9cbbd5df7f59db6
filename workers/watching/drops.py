"""Drops: what people put under the watched prefix, one folder each.

    PREFIX/friday/1.jpg          the drop "friday", with all that lies in it at any depth
    PREFIX/friday/_READY         it is complete: its settle time needn't be waited for; alone, it
                                 is a drop with nothing in it, whose owner is told so
    PREFIX/friday/_pixellm.yaml  what its owner wants to have otherwise, see `drop_settings`
    PREFIX/1.jpg                 belongs to the drop of all that lies in no folder

A drop is known by a digest of the names, sizes and etags in it: whoever adds, replaces or removes
an object has made another drop of it, whether an event told so or not. What the line does not read
(hidden names, and names that begin with "_") does not count, but for the files that say what is
asked of the drop.

A drop's name is also that of its folder of labels. A folder of the input that has no name
(`PREFIX//1.jpg`), or one that can't be written down there, is no drop: `why_unfit` says why.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from workers.shards.kinds import INSTRUCTION_NAMES
from workers.storage.objects import ObjectInfo, Store, Unseen, seen
from workers.storage.uris import NOT_TEXT, is_text, join_uri, under

LOOSE = "_loose"
"""The drop of the files that lie in no folder; no folder that counts can have this name."""
READY_MARK = "_READY"
SETTINGS_NAME = "_pixellm.yaml"
COUNTED = frozenset({*INSTRUCTION_NAMES, SETTINGS_NAME})
"""Hidden names that are part of a drop."""
MOST_NAME_BYTES = 200
"""Of a drop's name: a file's has 255 at most, and entries for the day put a time before it."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A drop as it was when it was listed."""

    name: str
    """of its folder, or `LOOSE`"""
    input: str
    """its folder; the watched prefix where it is loose"""
    digest: str
    """32 hex digits, of all that counts in it"""
    files: int
    """that count"""
    size: int
    """bytes of these"""
    is_marked: bool
    """whether it says that it is complete"""
    trouble: str = ""
    """why not all that is in it could be looked at; then nothing can be said of the rest"""

    @property
    def is_loose(self) -> bool:
        """Whether it is made of files in no folder."""
        return self.name == LOOSE


def find_drops(
    store: Store,
    prefix: str,
    exclude: Sequence[str] = (),
    pass_over: Callable[[str], None] = lambda _: None,
) -> Iterator[Drop]:
    """All drops under a prefix, by one listing; the loose one comes last.

    Args:
        store: where the prefix lies.
        prefix: the watched one.
        exclude: folders that are no drops, such as the output when it lies inside.
        pass_over: hears of hidden folders by name, once for each object in them.

    Raises:
        StorageError: the prefix can't be listed.
    """
    loose, folder = _Sum(LOOSE, prefix), None
    for found in store.walk(prefix):
        if any(under(found.uri, each) is not None for each in exclude):
            continue
        name, inside, rest = (under(found.uri, prefix) or "").partition("/")
        if not name and not inside:
            seen(found)  # the prefix itself
        elif not inside:
            loose.add(name, found)
        elif is_hidden(name):
            pass_over(name)
        else:
            if folder is None or folder.name != name:  # a sorted listing has a folder in one piece
                yield from folder.drops() if folder else ()
                folder = _Sum(name, join_uri(prefix, name))
            folder.add(rest, found)
    yield from folder.drops() if folder else ()
    yield from loose.drops()


def look_at(store: Store, prefix: str, name: str, exclude: Sequence[str] = ()) -> Drop | None:
    """One drop as it is now; None where nothing is in it."""
    return list_drop(store, prefix, name, exclude)[0]


def list_drop(
    store: Store, prefix: str, name: str, exclude: Sequence[str] = ()
) -> tuple[Drop | None, dict[str, str]]:
    """One drop as it is now, and what counts in it: etags by name below its input.

    Both are of the same listing: a digest says what the names and etags beside it say.
    """
    input_ = prefix if name == LOOSE else join_uri(prefix, name)
    sum_, content = _Sum(name, input_), dict[str, str]()
    for inner, found in _inside(store, input_, name == LOOSE, exclude):
        sum_.add(inner, found)
        if counts(inner) and isinstance(found, ObjectInfo):
            content[inner] = found.etag
    return next(sum_.drops(), None), content


def drop_of(uri: str, prefix: str) -> tuple[str, str] | None:
    """The drop that an object is in, and its name below the drop's input; None if in none."""
    if (path := under(uri, prefix)) is None:
        return None
    name, inside, rest = path.partition("/")
    if not inside:
        return LOOSE, name
    return None if is_hidden(name) or why_unfit(name) else (name, rest)


def why_unfit(name: str) -> str:
    """Why no drop can have this name; empty where one can."""
    if not name:
        return "a folder without a name: its keys have '//' where they need one '/'; move them"
    if not is_text(name):
        return NOT_TEXT
    if len(name.encode()) > MOST_NAME_BYTES:
        return f"this name has more than {MOST_NAME_BYTES} bytes; give the folder a shorter one"
    return "" if "\0" not in name else "this name has a zero byte in it; rename the folder"


def counts(name: str) -> bool:
    """Whether an object of that name below its drop is part of it."""
    *folders, last = name.split("/")
    return not any(map(is_hidden, folders)) and (last in COUNTED or not is_hidden(last))


def is_hidden(name: str) -> bool:
    """Whether the line reads over this folder or file."""
    return name.startswith((".", "_"))


class _Sum:
    """What a drop is made of, object by object."""

    def __init__(self, name: str, input_: str) -> None:
        self.name, self.input = name, input_
        self._digest, self._files, self._size, self._marked = sha256(), 0, 0, False
        self._trouble = ""

    def add(self, name: str, info: ObjectInfo | Unseen) -> None:
        """Takes an object in; they must come sorted."""
        if isinstance(info, Unseen):
            self._trouble = self._trouble or f"{info.error}"
            self._digest.update(f"{name}\0unseen\n".encode("utf-8", "surrogateescape"))
        elif name == READY_MARK:
            self._marked = True
        elif counts(name):
            line = f"{name}\0{info.size}\0{info.etag}\n"
            self._digest.update(line.encode("utf-8", "surrogateescape"))
            self._files += 1
            self._size += info.size

    def drops(self) -> Iterator[Drop]:
        """The drop, unless nothing is in it, not even a mark."""
        if self._files or self._marked or self._trouble:
            digest = self._digest.hexdigest()[:32]
            sums = self._files, self._size, self._marked, self._trouble
            yield Drop(self.name, self.input, digest, *sums)


def _inside(
    store: Store, input_: str, is_loose: bool, exclude: Iterable[str]
) -> Iterator[tuple[str, ObjectInfo | Unseen]]:
    """What lies in a drop, by name below its input; the drop's own folder has the name "".

    Raises:
        StorageError: the store is away, or may not be looked into at all.
    """
    for found in store.walk(input_):
        name = under(found.uri, input_) or ""
        if is_loose and not name:
            seen(found)
        inner = is_loose and "/" in name
        if not inner and all(under(found.uri, each) is None for each in exclude):
            yield name, found
