"""Lines of a plan's list of images -> records.

What is asked of an image comes from its side-car; else from the nearest `_instructions` file of its
folder or one above; else from the settings. The plan has already found which files these are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256

from workers.errors import ObjectMissing, RecordRejected, StorageError
from workers.records.instructions import MAX_FILE_BYTES, Instruction, parse_instruction_file
from workers.records.record import ImageRef, Record, RecordMaker
from workers.records.rejections import Reason, Rejection
from workers.records.sidecars import Sidecar, read_sidecar
from workers.shards.images import ImageLine
from workers.shards.plan import Shard
from workers.storage.objects import Store
from workers.storage.uris import NOT_TEXT, is_text, shown, written


def read_images(shard: Shard, store: Store, maker: RecordMaker) -> Iterator[Record]:
    """Reads the shard's range of the list; the images themselves are fetched later.

    Raises:
        StorageError: the list is not the one that the plan wrote.
    """
    texts = _Texts(store)
    for row_index, text in enumerate(_planned_lines(shard, store)):
        line = ImageLine.from_json(text)
        image = ImageRef(written(line.image), None, line.etag, None)
        rejection, sidecar, nearest = None, Sidecar(), None
        try:
            _check_name(line)
            sidecar = texts.beside(line.sidecar)
            if not sidecar.texts and not maker.asks(sidecar.values):
                nearest = texts.of_folder(line.instructions)
        except RecordRejected as error:
            rejection = Rejection.of(error)
        local = maker if nearest is None else replace(maker, defaults=nearest)
        yield from local.make(
            row_index, sidecar.values, image=image, texts=sidecar.texts, rejection=rejection
        )


def _planned_lines(shard: Shard, store: Store) -> list[bytes]:
    length = None if shard.length < 0 else shard.length
    lines = store.get(shard.uri, shard.offset, length)
    if not sha256(lines).hexdigest().startswith(shard.etag):
        raise StorageError(
            f"{shown(shard.uri)} is not the list of images that the run planned: it was cut off or"
            " changed. Delete it and start the same command again."
        )
    return lines.splitlines()


def _check_name(line: ImageLine) -> None:
    """A label is of no use when its row can't say which image it belongs to."""
    if not is_text(line.image):
        message = f"{shown(line.image)}: {NOT_TEXT}"
        raise RecordRejected(Reason.IMAGE_REFUSED, message)


@dataclass(slots=True)
class _Texts:
    """Reads the texts around images; each `_instructions` file once for the shard."""

    store: Store
    _read: dict[str, tuple[Instruction, ...] | RecordRejected] = field(default_factory=dict)

    def beside(self, uri: str | None) -> Sidecar:
        return read_sidecar(self._get(uri), uri) if uri else Sidecar()

    def of_folder(self, uri: str | None) -> tuple[Instruction, ...] | None:
        if uri is None:
            return None
        if uri not in self._read:
            try:
                self._read[uri] = parse_instruction_file(self._get(uri), uri)
            except RecordRejected as error:
                self._read[uri] = error
        found = self._read[uri]
        if isinstance(found, RecordRejected):
            raise found
        return found

    def _get(self, uri: str) -> bytes:
        try:
            return self.store.get(uri, 0, MAX_FILE_BYTES + 1)
        except ObjectMissing as error:
            message = f"{error}; it was there when the run was planned"
            raise RecordRejected(Reason.INSTRUCTION_INVALID, message) from error
