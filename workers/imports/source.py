"""What is imported, and where its files lie."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Literal

from workers.errors import AccessDenied, ObjectMissing, PlanError, RecordRejected
from workers.imports.gold import GoldRecord, Size, refuse_record
from workers.imports.wording import NAME_FORM, SENTENCE_FORM
from workers.json_stream import Entry, read_entries
from workers.records.addresses import resolve_image
from workers.records.record import MAX_SOURCE_ID_CHARS, ImageRef
from workers.records.rejections import Reason, quote
from workers.storage.objects import Store
from workers.storage.stores import Anywhere
from workers.storage.uris import shown

Referring = Literal["single", "multi", "both"]
MaskOf = Literal["instance", "category"]
READ_BYTES = 2**20
COCO_LISTS = ("images", "annotations", "categories")
ImageKey = Literal["file_name", "coco_url"]
FILE_FOLDER = "train2014"
"""Where images of COCO lie that are named by their file, as in MUSE and RefCOCO."""
ADDRESS_FOLDERS = ("train2017", "val2017")
"""Where those lie that are named by their address on the web."""
NAMES_LOOKED_AT = 10_000  # beside a file that is not there
ABSENT = 3
"""Categories that an image has not, asked of each: about as many as it has."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is imported, and how it is asked."""

    input: str
    """URI of the file or folder"""
    images: str
    """URI of the folder that images are looked for in; names that lead out of it are refused, and
    links in a local folder are followed"""
    instances: str | None = None
    """URI of the file with the annotations, where it is another one"""
    split: str | None = None
    """only entries of this one"""
    referring: Referring = "both"
    """whether expressions are asked one by one, several at once, or both"""
    absent: int = ABSENT
    """categories that an image has not, asked of each"""
    mask_of: MaskOf = "instance"
    """whether each instance has a mask of its own, or all of a category in an image have one"""
    name_form: str = NAME_FORM
    """how something that has a name is asked for; the name stands at `{}`"""
    sentence_form: str = SENTENCE_FORM
    """how a sentence is asked; it stands at `{}`"""

    @property
    def store(self) -> Store:
        """For all that is read."""
        return Anywhere()

    def entries(self, uri: str) -> Iterator[Entry]:
        """Streams the entries of a JSON file.

        Raises:
            PlanError: it is no JSON.
            StorageError: the store failed.
        """
        with self.store.open(uri) as file:
            yield from read_entries(file, shown(uri))

    def records(self, read: Callable[[Mapping[str, object]], GoldRecord]) -> Iterator[GoldRecord]:
        """Streams the records of the input, a JSON file with a list of objects.

        Args:
            read: makes a record of an object; whatever else stands there is refused.

        Raises:
            PlanError: it is no JSON, or COCO's.
            StorageError: the store failed.
        """
        for entry in self.entries(self.input):
            if entry.key in COCO_LISTS:
                raise PlanError(
                    f"{shown(self.input)} is an object with {entry.key!r}, as COCO's files are, and"
                    " no list of questions: --from coco reads it"
                )
            value = entry.value
            yield read(value) if isinstance(value, Mapping) else refuse_record(value)

    def find_image(self, name: object, folder: str = "") -> tuple[ImageRef, ...]:
        """Where the image of a name may lie.

        Args:
            name: as the entry says it: a path below `images`.
            folder: where such images lie at the data set's makers, if not right there.

        Raises:
            RecordRejected: there is no name, or it leads out of `images`.
        """
        if name is None or name == "":
            raise RecordRejected(Reason.IMAGE_NOT_NAMED, "the entry names no image")
        if not isinstance(name, str):
            raise RecordRejected(
                Reason.IMAGE_REFUSED, f"an image's name must be a text, not {quote(name)}"
            )
        base = name.rpartition("/")[2]
        paths = dict.fromkeys([name, *([f"{folder}/{base}"] if folder else []), base])
        uris = [resolve_image(path, self.images, (self.images,)) for path in paths]
        return tuple(ImageRef(uri, None, None, None) for uri in dict.fromkeys(uris))

    def find_named(self, name: object, key: ImageKey) -> tuple[ImageRef, ...]:
        """Where an image of COCO may lie.

        Of an address only the end counts, and the folder that it names: nothing is fetched from
        there.

        Args:
            name: as the entry says it.
            key: by which it says it (`image_key`).

        Raises:
            RecordRejected: there is no name, or it leads out of `images`.
        """
        if key == "file_name" or not isinstance(name, str):
            return self.find_image(name, FILE_FOLDER)
        folder = next((each for each in ADDRESS_FOLDERS if each in name), ADDRESS_FOLDERS[-1])
        return self.find_image(name.rpartition("/")[2], folder)


def image_key(entry: Mapping[str, object]) -> ImageKey:
    """By which key an entry names its image: MUSE has both forms, LVIS has addresses only."""
    return "coco_url" if "file_name" not in entry and "coco_url" in entry else "file_name"


def digest_file(store: Store, uri: str) -> str:
    """SHA-256 of a file, which is not held.

    Raises:
        PlanError: it is not there.
        StorageError: the store failed.
    """
    digest = sha256()
    try:
        with store.open(uri) as file:
            while data := file.read(READ_BYTES):
                digest.update(data)
    except ObjectMissing as error:
        raise PlanError(f"there is no file {shown(uri)}{_find_alike(store, uri)}") from error
    return digest.hexdigest()


def _find_alike(store: Store, uri: str) -> str:
    """MUSE comes as `MUSE_train.json` as often as `muse_train.json`."""
    with suppress(AccessDenied, ObjectMissing):  # who may read a file may not list, perhaps
        if store.any_under(uri):
            return "; it is a folder: give the file in it"
        beside = islice(store.list(uri.rpartition("/")[0]), NAMES_LOOKED_AT)
        alike = (info.uri for info in beside if info.uri.lower() == uri.lower())
        return next((f"; {shown(found)} is there" for found in alike), "")
    return ""


def read_size(height: object, width: object) -> Size | None:
    """The size that an entry gives its image; None where it gives none."""
    if type(height) is int and type(width) is int and height > 0 and width > 0:
        return height, width
    return None


def read_category_id(value: object) -> int | None:
    """A category's number, where it is one that a table can hold."""
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def read_id(value: object) -> str | None:
    """The source's own name for an entry."""
    return None if value is None else str(value)[:MAX_SOURCE_ID_CHARS]
