"""ReasonSeg: a folder with a JSON file beside each image, of the same name.

    {"text": [question, ...], "is_sentence": true, "shapes": [{"label", "points"}, ...]}

All questions of a file mean the same pixels. Shapes whose label holds "ignore" count neither for
nor against; where there are no others, rows are `partial`, without an answer. Those labelled "flag"
mean nothing. One file is held at a time.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from posixpath import splitext

from workers.errors import PlanError, RecordRejected
from workers.imports.gold import (
    Asked,
    GoldQuestion,
    GoldRecord,
    GoldTarget,
    answer_question,
    refuse_question,
)
from workers.imports.painting import IGNORED, TARGET, Painted, Painting, read_painting
from workers.imports.source import Source
from workers.imports.wording import compose_unnamed
from workers.json_stream import Json
from workers.labels.origins import Origin
from workers.records.record import ImageRef
from workers.records.rejections import Reason, Rejection, quote
from workers.storage.objects import ObjectInfo
from workers.storage.uris import shown, under

SUFFIX = ".json"
IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg", ".webp", ".JPG", ".PNG", ".JPEG")
"""Tried one after the other; the data set has the first."""


def read_reasonseg(source: Source, left_out: Counter[str]) -> Iterator[GoldRecord]:
    """Reads a folder, in the order of its names.

    Raises:
        PlanError: there is no JSON file in it.
    """
    for info in list_files(source):
        name = under(info.uri, source.input)
        assert name is not None, info.uri
        yield _read_file(source.store.get(info.uri), name, source)


def list_files(source: Source) -> list[ObjectInfo]:
    """The files with questions.

    Raises:
        PlanError: there is none.
    """
    files = [info for info in source.store.list(source.input) if info.uri.endswith(SUFFIX)]
    if not files:
        raise PlanError(f"there is no file ending in {SUFFIX} under {shown(source.input)}")
    return files


def _read_file(data: bytes, name: str, source: Source) -> GoldRecord:
    stem, rejection, images = splitext(name)[0], None, tuple[ImageRef, ...]()
    entry: Json = {}
    try:
        entry = _parse(data)
        images = tuple(
            image for suffix in IMAGE_SUFFIXES for image in source.find_image(f"{stem}{suffix}")
        )
    except RecordRejected as error:
        rejection = Rejection.of(error)
    origin = Origin(image=f"{stem}{IMAGE_SUFFIXES[0]}", image_key="image")
    questions = tuple(_read_questions(entry, origin, source))
    return GoldRecord(stem, images, questions, rejection=rejection)


def _parse(data: bytes) -> Json:
    """Some files of the data set are in the code page of a Windows of its annotators."""
    try:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252")
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordRejected(Reason.RECORD_BROKEN, f"not JSON: {error}") from error
    if not isinstance(entry, Mapping):
        raise RecordRejected(
            Reason.RECORD_BROKEN, f"a file must hold an object, not {quote(entry)}"
        )
    return entry


def _read_questions(entry: Json, origin: Origin, source: Source) -> Iterator[GoldQuestion]:
    is_sentence = entry.get("is_sentence") is not False
    form = source.sentence_form if is_sentence else source.name_form
    texts = entry.get("text") or []
    for place, text in enumerate(texts if isinstance(texts, list) else [texts]):
        asked = Asked(text, form, "reasoning" if is_sentence else "referring")
        here = Origin(place, origin.image, origin.image_key, composed=True)
        try:
            yield _answer(asked, read_painting(entry.get("shapes")), here)
        except RecordRejected as error:
            yield refuse_question(asked, Rejection.of(error), here)


def _answer(asked: Asked, painting: Painting, origin: Origin) -> GoldQuestion:
    targets = []
    if painting.has(TARGET):
        targets = [GoldTarget(Painted(painting, TARGET), None, None, "none")]
        if asked.kind == "referring" and isinstance(asked.text, str):
            targets = [GoldTarget(Painted(painting, TARGET), asked.text, None, "instruction")]
    ignored = Painted(painting, IGNORED) if painting.has(IGNORED) else None
    answer = compose_unnamed(len(targets), f"{origin.image}\n{asked.text}")
    return answer_question(asked, answer, targets, origin, ignored)
