"""What lies under an input: files that list records, or images with the texts that belong to them.

Not inputs: hidden names, and names that begin with "_" at any depth, which is where our own
folders (`_commits`, `_plans`, `_runs`) lie when the output is inside the input. A folder that has
`_commits` or `_runs` is the output of an earlier run, and its `labels` are no input either.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile

from workers.shards.images import SPOOL_BYTES, ImageLine, pair
from workers.shards.kinds import (
    IMAGE_SUFFIXES,
    INSTRUCTION_NAMES,
    SIDECAR_SUFFIXES,
    is_hidden,
    kind_of,
    suffix_of,
)
from workers.storage.objects import ObjectInfo, Store, seen
from workers.storage.uris import join_uri, under

OUTPUT_MARKS = frozenset({"_commits", "_runs"})  # folders that only our outputs have
OUTPUT_LABELS = "labels"  # of an output; sorts after its marks, in bytes too


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
        if self._is_of_an_output(folder.split("/")) or is_hidden(folder.split("/")):
            return
        if last in INSTRUCTION_NAMES:
            self._instructions.setdefault(folder, []).append(info)
        elif not is_hidden([last]):
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
        suffix = suffix_of(last)
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
        for image, sidecar in pair(ObjectInfo(*json.loads(line)) for line in self._spool):
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
        for found in single or store.walk(prefix):
            inner = shallow and "/" in (under(found.uri, root) or "")
            if not inner and all(under(found.uri, folder) is None for folder in exclude):
                inputs.add(seen(found))
        if inputs.is_empty and (file := store.find(prefix)):
            inputs.others.append(file.uri)
        failed.pop_all()
    return inputs


def _single_file(store: Store, prefix: str) -> list[ObjectInfo]:
    """The file that the input names, and for an image the texts around it; empty for a folder."""
    last = prefix.rpartition("/")[2]
    if not kind_of(last) and suffix_of(last) not in IMAGE_SUFFIXES:
        return []
    if not (file := store.find(prefix)):
        return []
    if kind_of(last):
        return [file]
    stem, folder = prefix.rpartition(".")[0], prefix.rpartition("/")[0]
    around = [f"{stem}.{end}" for end in SIDECAR_SUFFIXES]
    around += [join_uri(folder, name) for name in INSTRUCTION_NAMES]
    found = [file, *(info for uri in around if (info := store.find(uri)))]
    return sorted(found, key=lambda info: info.uri)
