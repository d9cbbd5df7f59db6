"""What lies under an input: files that list records, or images with the texts that belong to them.

    photos/_instructions.yaml      asked of every image below, unless a nearer one is there
    photos/cats/1.jpg
    photos/cats/1.txt              side-car: belongs to 1.jpg alone
    photos/cats/_instructions.txt  nearest to 1.jpg

Not inputs: hidden names, and names that begin with "_" at any depth, which is where our own
folders (`_commits`, `_plans`, `_runs`) lie when the output is inside the input. A folder that has
`_commits` or `_runs` is the output of an earlier run, and its `labels` are no input either.
"""

import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from typing import Self

from workers.errors import ObjectMissing
from workers.storage.objects import ObjectInfo, Store
from workers.storage.uris import join_uri, under

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"})
SIDECAR_SUFFIXES = ("json", "txt")  # the first that is there counts
INSTRUCTION_NAMES = ("_instructions.yaml", "_instructions.jsonl", "_instructions.txt")  # likewise
OUTPUT_MARKS = frozenset({"_commits", "_runs"})  # folders that only our outputs have
OUTPUT_LABELS = "labels"  # of an output; sorts after its marks, in bytes too
SPOOL_BYTES = 16 * 2**20  # a list of images longer than this (some 100,000) waits on the disk

ListingWriter = Callable[[bytes], str]
"""Stores a piece of a plan and returns the URI to read it from."""


class ShardKind(StrEnum):
    """The form in which a shard's records are written down."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    TAR = "tar"
    IMAGES = "images"


SHARD_SUFFIXES = {
    ".jsonl": ShardKind.JSONL,
    ".jsonl.gz": ShardKind.JSONL,
    ".ndjson": ShardKind.JSONL,
    ".ndjson.gz": ShardKind.JSONL,
    ".parquet": ShardKind.PARQUET,
    ".tar": ShardKind.TAR,
}


@dataclass(frozen=True, slots=True)
class ImageLine:
    """One image of a plain prefix and where it stands what is asked of it: a line of a listing.

    The etags are there so that a changed text makes another shard.
    """

    image: str
    etag: str
    size: int
    """Bytes."""
    sidecar: str | None
    sidecar_etag: str | None
    instructions: str | None
    """The nearest `_instructions` file."""
    instructions_etag: str | None

    @classmethod
    def of(
        cls, image: ObjectInfo, sidecar: ObjectInfo | None, instructions: ObjectInfo | None
    ) -> Self:
        """The line of an image and the texts that belong to it."""
        return cls(
            image=image.uri,
            etag=image.etag,
            size=image.size,
            sidecar=sidecar.uri if sidecar else None,
            sidecar_etag=sidecar.etag if sidecar else None,
            instructions=instructions.uri if instructions else None,
            instructions_etag=instructions.etag if instructions else None,
        )

    def to_json(self) -> bytes:
        """As it stands in a listing, ended by a line break."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Reads what `to_json` wrote."""
        return cls(**json.loads(line))


@dataclass(slots=True)
class Inputs(AbstractContextManager["Inputs"]):
    """What was found; close it, for the images may wait in a temporary file."""

    root: str
    """The folder up to which instructions are looked for."""
    files: list[ObjectInfo] = field(default_factory=list)
    """Files that list records; when there are any, `images` is empty: they refer to the images."""
    images_seen: int = 0
    """Images that lie there, also where there are `files`."""
    first_image: str | None = None
    """The first of these."""
    unasked: int = 0
    """Of the images given out, those that have no text of their own."""
    others: list[str] = field(default_factory=list)
    """A few URIs of things that are no input, for the message when nothing else is there."""
    _instructions: dict[str, list[ObjectInfo]] = field(default_factory=dict)
    _outputs: set[str] = field(default_factory=set)
    """Folders that earlier runs wrote to."""
    _spool: SpooledTemporaryFile[str] = field(
        default_factory=lambda: SpooledTemporaryFile(  # noqa: SIM115 - `Inputs` closes it
            SPOOL_BYTES, "w+", encoding="ascii"
        )
    )

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found, of whatever form."""
        return not (self.files or self.images_seen or self.others)

    def add(self, info: ObjectInfo) -> None:
        """Take in one object; they must come sorted."""
        folder, _, last = (under(info.uri, self.root) or "").rpartition("/")
        if self._is_of_an_output(folder.split("/")) or _is_hidden(folder.split("/")):
            return
        if last in INSTRUCTION_NAMES:
            self._instructions.setdefault(folder, []).append(info)
        elif not _is_hidden([last]):
            self._add_visible(last, info)

    def _is_of_an_output(self, names: Sequence[str]) -> bool:
        """Whether it lies in what an earlier run wrote; its marks come first in the listing."""
        for depth, name in enumerate(names):
            above = "/".join(names[:depth])
            if name in OUTPUT_MARKS:
                self._outputs.add(above)
                return True
            if name == OUTPUT_LABELS and above in self._outputs:
                return True
        return False

    def _add_visible(self, last: str, info: ObjectInfo) -> None:
        suffix = _suffix(last)
        if kind_of(last):
            self.files.append(info)
        elif suffix in IMAGE_SUFFIXES or suffix in SIDECAR_SUFFIXES:
            if suffix in IMAGE_SUFFIXES:
                self.images_seen += 1
                self.first_image = self.first_image or info.uri
            else:  # without an image it belongs to nothing
                self.others = [*self.others[:2], info.uri]
            if not self.files:
                self._spool.write(json.dumps((info.uri, info.size, info.etag)) + "\n")
        else:
            self.others = [*self.others[:2], info.uri]

    def images(self) -> Iterator[ImageLine]:
        """Every image with its texts; sorted by URI, but for `1.b.jpg` before `1.jpg`."""
        if self.files:
            return
        self._spool.seek(0)
        for image, sidecar in _paired(ObjectInfo(*json.loads(line)) for line in self._spool):
            nearest = self._nearest(under(image.uri, self.root) or "")
            self.unasked += sidecar is None and nearest is None
            yield ImageLine.of(image, sidecar, nearest)

    def _nearest(self, name: str) -> ObjectInfo | None:
        while name:
            name = name.rpartition("/")[0]
            if found := self._instructions.get(name):
                return min(found, key=lambda i: INSTRUCTION_NAMES.index(i.uri.rpartition("/")[2]))
        return None


def find_inputs(
    store: Store, prefix: str, exclude: Sequence[str] = (), *, shallow: bool = False
) -> Inputs:
    """Look at all objects under a prefix, or at the one file that it names.

    Args:
        store: where the prefix lies.
        prefix: a folder, a file that lists records, or an image.
        exclude: folders to leave out, such as the output when it lies inside the input.
        shallow: leave out all folders.
    """
    single = _single_file(store, prefix)
    with ExitStack() as failed:
        root = prefix.rpartition("/")[0] if single else prefix
        inputs = failed.enter_context(Inputs(root))
        for info in single or store.list(prefix):
            inner = shallow and "/" in (under(info.uri, root) or "")
            if not inner and all(under(info.uri, folder) is None for folder in exclude):
                inputs.add(info)
        if inputs.is_empty and (file := _stat(store, prefix)):
            inputs.others.append(file.uri)
        failed.pop_all()
    return inputs


def kind_of(name: str) -> ShardKind | None:
    """The kind of a file that lists records; None for other files."""
    lower = name.lower()
    return next((kind for end, kind in SHARD_SUFFIXES.items() if lower.endswith(end)), None)


def is_read(name: str, names: Container[str]) -> bool:
    """Whether a file says something to the line: lists records, is an image, or belongs to one.

    Args:
        name: of the file.
        names: of the files around it; a text counts where an image of the same name is there.
    """
    stem, _, suffix = name.rpartition(".")
    if kind_of(name) or suffix.lower() in IMAGE_SUFFIXES:
        return True
    if name.rpartition("/")[2] in INSTRUCTION_NAMES:
        return True
    images = (f"{stem}.{each}" for end in IMAGE_SUFFIXES for each in (end, end.upper()))
    return suffix.lower() in SIDECAR_SUFFIXES and any(each in names for each in images)


def write_listings_to(store: Store, folder: str) -> ListingWriter:
    """A writer that names each piece by its content: the same plan gives the same objects.

    A piece that is there already is left alone: a run that uses it may be under way.
    """

    def write(text: bytes) -> str:
        uri = listing_uri(folder, text)
        if not _stat(store, uri):
            store.put(uri, text)
        return uri

    return write


def listing_uri(folder: str, text: bytes) -> str:
    """Where a piece lies in a folder of listings."""
    return join_uri(folder, f"{sha256(text).hexdigest()[:20]}.jsonl")


@dataclass(slots=True)
class _Stem:
    """Neighbours in a sorted listing that differ in the suffix only."""

    stem: str
    images: list[ObjectInfo] = field(default_factory=list)
    sidecars: dict[str, ObjectInfo] = field(default_factory=dict)

    def add(self, info: ObjectInfo) -> None:
        suffix = _suffix(info.uri)
        if suffix in IMAGE_SUFFIXES:
            self.images.append(info)
        else:
            self.sidecars[suffix] = info

    def pairs(self) -> Iterator[tuple[ObjectInfo, ObjectInfo | None]]:
        found = (self.sidecars[end] for end in SIDECAR_SUFFIXES if end in self.sidecars)
        sidecar = next(found, None)
        return ((image, sidecar) for image in self.images)


def _paired(
    infos: Iterable[ObjectInfo],
) -> Iterator[tuple[ObjectInfo, ObjectInfo | None]]:
    """Each image with its side-car, from a sorted listing, without holding the listing.

    All names that begin with "1." are neighbours: once another name comes, "1" is complete.
    "1.b.jpg" lies between "1.a.txt" and "1.jpg", so a stem may wait for the end of a longer one.
    """
    waiting: list[_Stem] = []
    for info in infos:
        while waiting and not info.uri.startswith(waiting[-1].stem + "."):
            yield from waiting.pop().pairs()
        stem = info.uri.rpartition(".")[0]
        if not waiting or waiting[-1].stem != stem:
            waiting.append(_Stem(stem))
        waiting[-1].add(info)
    while waiting:
        yield from waiting.pop().pairs()


def _single_file(store: Store, prefix: str) -> list[ObjectInfo]:
    """The file that the input names, and for an image the texts around it; empty for a folder."""
    last = prefix.rpartition("/")[2]
    if not kind_of(last) and _suffix(last) not in IMAGE_SUFFIXES:
        return []
    if not (file := _stat(store, prefix)):
        return []
    if kind_of(last):
        return [file]
    stem, folder = prefix.rpartition(".")[0], prefix.rpartition("/")[0]
    around = [f"{stem}.{end}" for end in SIDECAR_SUFFIXES]
    around += [join_uri(folder, name) for name in INSTRUCTION_NAMES]
    found = [file, *(info for uri in around if (info := _stat(store, uri)))]
    return sorted(found, key=lambda info: info.uri)


def _stat(store: Store, uri: str) -> ObjectInfo | None:
    try:
        return store.stat(uri)
    except ObjectMissing:
        return None


def _suffix(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def _is_hidden(names: Sequence[str]) -> bool:
    return any(name.startswith((".", "_")) for name in names)
