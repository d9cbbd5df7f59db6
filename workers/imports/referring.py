"""Flat referring expressions: a list of entries with one image and one expression each.

    {"image": "cats/1.jpg", "expression": "the cat that sleeps", "mask": {"size", "counts"}}

The mask may also be `polygons`, the path of a `mask` picture, or `masks`, a list of any of these:
several things, or none. An `answer` is kept, with a `[SEG]` or `{seg}` for each mask; without one
it is composed. One entry is held at a time.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from pixellm.answers import SEG_MARK
from workers.errors import RecordRejected
from workers.imports.gold import (
    Asked,
    GoldQuestion,
    GoldRecord,
    GoldTarget,
    Shape,
    answer_question,
    make_record,
    refuse_question,
)
from workers.imports.shapes import MaskPicture, read_segmentation
from workers.imports.source import Source, read_id, read_size
from workers.imports.wording import compose_unnamed
from workers.json_stream import Json
from workers.labels.origins import SEG, Origin
from workers.records.rejections import Reason, Rejection, quote

_IMAGE, _TEXT = ("image", "file_name", "image_path"), ("expression", "text", "sentence", "question")
_MASKS = ("mask", "masks", "polygons", "segmentation")


class _Found(NamedTuple):
    """The first of some keys that an entry has."""

    key: str
    value: object


def read_referring(source: Source, left_out: Counter[str]) -> Iterator[GoldRecord]:
    """Reads a file.

    Raises:
        PlanError: it is no JSON.
    """
    return source.records(partial(_read_entry, source))


def _read_entry(source: Source, entry: Json) -> GoldRecord:
    name = _find(entry, _IMAGE).value
    return make_record(
        read_id(entry.get("id")),
        partial(source.find_image, name),
        (_read_question(entry, name, source),),
        read_size(entry.get("height"), entry.get("width")),
    )


def _read_question(entry: Json, image: object, source: Source) -> GoldQuestion:
    asked = Asked(_find(entry, _TEXT).value, source.sentence_form, "referring")
    origin = Origin(image=image if isinstance(image, str) else "", image_key="image")
    try:
        shapes = _read_masks(_find(entry, _MASKS), source)
    except RecordRejected as error:
        return refuse_question(asked, Rejection.of(error), origin)
    answer = entry.get("answer")
    if not isinstance(answer, str):
        composed = Origin(image=origin.image, image_key=origin.image_key, composed=True)
        text = compose_unnamed(len(shapes), f"{origin.image}\n{asked.text}")
        return answer_question(asked, text, _name_all(shapes, asked), composed)
    if SEG in answer:
        origin = Origin(image=origin.image, image_key=origin.image_key, answer=answer)
    text = answer.replace(SEG, SEG_MARK)
    return answer_question(asked, text, _name_all(shapes, asked), origin)


def _name_all(shapes: list[Shape], asked: Asked) -> list[GoldTarget]:
    """Each is what the expression says."""
    phrase = asked.text if isinstance(asked.text, str) else None
    return [GoldTarget(shape, phrase, None, "instruction") for shape in shapes]


def _read_masks(found: _Found, source: Source) -> list[Shape]:
    if found.key == "masks":
        if not isinstance(found.value, list):
            raise RecordRejected(
                Reason.MASK_BROKEN, f"`masks` must be a list of masks, not {quote(found.value)}"
            )
        return [_read_mask(each, source) for each in found.value]
    if not found.key:
        raise RecordRejected(Reason.MASK_BROKEN, f"no mask; looked for {', '.join(_MASKS)}")
    return [_read_mask(found.value, source)]


def _read_mask(value: object, source: Source) -> Shape:
    if isinstance(value, str):
        return MaskPicture(source.find_image(value)[0])
    return read_segmentation(value)


def _find(entry: Json, keys: tuple[str, ...]) -> _Found:
    given = (_Found(key, entry[key]) for key in keys if entry.get(key) is not None)
    return next(given, _Found("", None))
