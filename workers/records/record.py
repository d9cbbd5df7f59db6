"""One entry of the input, as a mapping of names to values -> a `Record`.

All input forms end here, so that a key means the same in a JSON line, a Parquet row, a side-car and
the .json of a WebDataset sample. Nothing in here raises for what is wrong in an entry: it ends as a
record with a `rejection`, because every record must end as a row.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from workers.errors import RecordRejected
from workers.records.addresses import resolve_image
from workers.records.instructions import (
    Instruction,
    derive_instruction_id,
    list_instructions,
    read_classes,
    read_instruction,
)
from workers.records.rejections import Reason, Rejection, quote
from workers.storage.uris import redact, shown

MAX_META_BYTES = 64 * 2**10
"""Of the unknown keys of one record, as JSON: they are repeated in each of its rows."""
MAX_SOURCE_ID_CHARS = 500
_KEPT_TEXT_CHARS = 200
"""Of an instruction that was refused, to recognise it by in its row."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where a record's image is, or the image itself."""

    uri: str
    """of the image file, or of the archive or table that holds it"""
    member: str | None
    """which of the images in `uri`; None when it is a file of its own"""
    etag: str | None
    """of the image file, if the listing gave it"""
    data: bytes | None
    """the file's bytes, when they lay in the archive or table"""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the input: an image and what is asked of it.

    An entry with a bad instruction among good ones gives several records of the same `row_index`:
    one with the good instructions, and one with a rejection for each bad one.
    """

    row_index: int
    """place in the shard, from 0"""
    source_id: str | None
    image: ImageRef | None
    instructions: tuple[Instruction, ...]
    meta_json: str | None
    """a JSON object with the keys that mean nothing to us"""
    rejection: Rejection | None
    """why it can't be labelled; then its image must not be fetched"""


@dataclass(frozen=True, slots=True)
class FieldMap:
    """Which keys or columns mean what; of several, the first that has a value counts."""

    image: tuple[str, ...] = ("image", "image_uri", "url", "path", "file_name")
    instructions: tuple[str, ...] = (
        "instruction",
        "instructions",
        "text",
        "prompt",
        "question",
        "caption",
    )
    source_id: tuple[str, ...] = ("id", "uid", "__key__")
    classes: tuple[str, ...] = ("classes",)
    meta: tuple[str, ...] = ("meta",)


@dataclass(frozen=True, slots=True)
class RecordMaker:
    """Makes the records of one input file; holds what is the same for all of them."""

    uri: str
    """the input file; relative image paths are relative to its folder"""
    roots: tuple[str, ...]
    """folders and buckets that images may lie in"""
    defaults: tuple[Instruction, ...]
    """asked of every image that comes without instructions of its own"""
    fields: FieldMap
    first: int = 0
    """records of the file that come before the shard; for names and messages"""

    def make(
        self,
        row_index: int,
        values: Mapping[str, object],
        *,
        image: ImageRef | None = None,
        texts: Sequence[object] = (),
        source_id: str | None = None,
        rejection: Rejection | None = None,
    ) -> Iterator[Record]:
        """Makes the records of one entry: one, and one more for each bad instruction.

        Args:
            row_index: see `Record`.
            values: the entry's keys.
            image: where the form itself says which image it is.
            texts: unread instructions, asked before those in `values`.
            source_id: the form's own name for the entry, if `values` gives no id.
            rejection: what is already known to be wrong with it.
        """
        fields = _Fields(values)
        name = fields.take(self.fields.source_id)
        asked = fields.take(self.fields.instructions)
        classes = fields.take(self.fields.classes)
        if image is None and rejection is None:
            image, rejection = self._find_image(fields.take(self.fields.image), row_index)
        try:
            name = source_id if name is None else str(name)[:MAX_SOURCE_ID_CHARS]
            meta = fields.rest(self.fields.meta)
        except RecursionError:
            name, meta, rejection = source_id, None, rejection or _TOO_DEEP
        record = Record(
            row_index=row_index,
            source_id=name,
            image=image,
            instructions=(),
            meta_json=meta,
            rejection=rejection,
        )
        yield from self._ask(record, [*texts, asked], classes)

    def reject(self, row_index: int, error: RecordRejected) -> Record:
        """A record of which nothing can be used."""
        return Record(row_index, None, None, (), None, Rejection.of(error))

    def asks(self, values: Mapping[str, object]) -> bool:
        """Whether an entry brings instructions of its own."""
        return _Fields(values).take(self.fields.instructions) is not None

    def place(self, row_index: int) -> str:
        """How a message names a record of the file."""
        return f"{shown(self.uri)}, record {self.first + row_index + 1}"

    def _ask(self, record: Record, asked: list[object], classes: object) -> Iterator[Record]:
        """Puts the instructions into a record; bad ones go into records of their own."""
        try:
            items = list_instructions([item for each in asked for item in list_instructions(each)])
            common = read_classes(classes)
        except RecordRejected as error:
            yield replace(record, rejection=record.rejection or Rejection.of(error))
            return
        except RecursionError:
            yield replace(record, rejection=record.rejection or _TOO_DEEP)
            return
        good: list[Instruction] = []
        bad: list[Record] = []
        for item in items:
            try:
                instruction = read_instruction(item)
                good.append(replace(instruction, classes=instruction.classes or common))
            except RecordRejected as error:
                shown_as = _as_refused(item)
                why = record.rejection or Rejection.of(error)
                bad.append(replace(_without_bytes(record), instructions=(shown_as,), rejection=why))
        if not items:
            good = [replace(each, classes=each.classes or common) for each in self.defaults]
        if good:
            yield replace(record, instructions=tuple(good))
        elif not bad:
            yield replace(record, rejection=record.rejection or _NOTHING_ASKED)
        yield from bad

    def _find_image(
        self, value: object, row_index: int
    ) -> tuple[ImageRef | None, Rejection | None]:
        """Reads an address, bytes, or the struct {bytes, path} of Hugging Face data sets."""
        struct = value if isinstance(value, Mapping) else {}
        path, data = struct.get("path", value), struct.get("bytes", value)
        if isinstance(data, bytes):
            # the path in a struct need not be unique; the number of the row is
            number = self.first + row_index
            name = f"{number}/{path}" if isinstance(path, str) and path else f"{number}"
            return ImageRef(self.uri, name, None, data), None
        if not path:
            message = f"no image; looked for {', '.join(self.fields.image)}"
            return None, Rejection(Reason.IMAGE_NOT_NAMED, message)
        try:
            uri = resolve_image(path, self.uri.rpartition("/")[0], self.roots)
        except RecordRejected as error:
            kept = redact(str(path))[:MAX_SOURCE_ID_CHARS]
            return ImageRef(kept, None, None, None), Rejection.of(error)
        return ImageRef(uri, None, None, None), None


class _Fields:
    """The keys of an entry; those that were taken do not count as unknown."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._left = dict(values)

    def take(self, names: Iterable[str]) -> object:
        """The first value that says something; those that say nothing go too."""
        found: object = None
        for name in names:
            value = self._left.get(name)
            if value is None or value == "" or value == []:
                self._left.pop(name, None)
            elif found is None:
                found = self._left.pop(name)
        return found

    def rest(self, meta_names: Iterable[str]) -> str | None:
        """What is left, as a JSON object; the keys of a `meta` mapping lie on its top level."""
        meta = self.take(meta_names)
        left = {name: value for name, value in self._left.items() if value is not None}
        kept = {**meta, **left} if isinstance(meta, Mapping) else left
        if meta is not None and not isinstance(meta, Mapping):
            kept["meta"] = meta
        return _to_json(kept) if kept else None


def _to_json(value: object) -> str:
    try:
        text = json.dumps(value, default=_describe, allow_nan=False)
    except ValueError:  # NaN and infinity are no JSON: as words, they are
        loose = json.dumps(value, default=_describe)
        text = json.dumps(json.loads(loose, parse_constant=str))
    if len(text) > MAX_META_BYTES:
        return json.dumps({"dropped": f"{len(text)} bytes; at most {MAX_META_BYTES} are kept"})
    return text


def _describe(value: object) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


def _as_refused(item: object) -> Instruction:
    """A bad instruction as far as it can be shown in its row."""
    text = item.get("text") if isinstance(item, Mapping) else item
    kept = (text if isinstance(text, str) else quote(item))[:_KEPT_TEXT_CHARS]
    return Instruction(derive_instruction_id(kept), kept)


def _without_bytes(record: Record) -> Record:
    return replace(record, image=record.image and replace(record.image, data=None))


_TOO_DEEP = Rejection(
    Reason.RECORD_BROKEN, "lists or objects of the record are nested too deep; about 900 go"
)
_NOTHING_ASKED = Rejection(
    Reason.INSTRUCTION_MISSING,
    "the record has no instruction, and the settings give none for all images",
)
