"""COCO instances: every category of an image is asked for, and some that the image has not.

Crowds (`iscrowd`) are no instances that anybody told apart: their pixels count neither for nor
against, and where an image has a category as a crowd only, its row is `partial`, without an answer.
Categories that differ by case, spaces or Unicode's forms alone are asked for together. Those that
an image has not are "nothing matches"; which of them are asked is taken from `neg_category_ids`
where an image has it (LVIS), else chosen from all. Memory: about twice that of the file.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from workers.errors import PlanError, RecordRejected
from workers.imports.annotations import Annotations, Id, place_image, read_key
from workers.imports.gold import (
    Asked,
    GoldQuestion,
    GoldRecord,
    Shape,
    answer_question,
    refuse_question,
)
from workers.imports.shapes import Union, read_segmentation
from workers.imports.source import COCO_LISTS, Source, read_category_id
from workers.imports.wording import choose, compose_unnamed, word_name
from workers.json_stream import Json
from workers.labels.origins import Origin
from workers.records.rejections import Reason, Rejection, quote
from workers.storage.uris import shown


def read_coco(source: Source, left_out: Counter[str]) -> Iterator[GoldRecord]:
    """Reads a file.

    Raises:
        PlanError: it is no JSON, or no COCO file.
    """
    known, broken = Annotations(), list[Rejection]()
    for entry in source.entries(source.input):
        if entry.key in COCO_LISTS and not known.add(entry):
            message = f"no id, or one that was there before, in {entry.key}: {quote(entry.value)}"
            broken.append(Rejection(Reason.RECORD_BROKEN, message))
    if not known.images:
        raise PlanError(f"{shown(source.input)} has no `images`: is it a COCO file?")
    # annotations of images that the file has not are entries too
    for number in dict.fromkeys([*known.images, *known.of_image]):
        yield _make_record(number, known, source)
    for why in broken:
        yield GoldRecord(None, (), (), rejection=why)


def _make_record(number: Id, known: Annotations, source: Source) -> GoldRecord:
    image = known.images.get(number)
    placed = place_image(image, number, source)
    return GoldRecord(
        source_id=f"{number}",
        images=placed.refs,
        questions=tuple(_ask(number, image or {}, placed.name, known, source)),
        size=placed.size,
        rejection=placed.rejection,
    )


def _ask(
    number: Id, image: Json, name: str, known: Annotations, source: Source
) -> Iterator[GoldQuestion]:
    by_category: dict[object, list[Json]] = {}
    for each in known.of_image.get(number, ()):
        annotation = known.get(each)
        by_category.setdefault(_key(annotation, known), []).append(annotation)
    count = source.absent if image else 0  # of an image that the file has not, nothing is known
    absent = _choose_absent(number, image, by_category, known)[:count] if count else []
    for place, category in enumerate([*by_category, *absent]):
        origin = Origin(place, name, "file_name", category_id=read_category_id(category))
        yield _ask_category(category, by_category.get(category, ()), known, source, origin)


def _key(annotation: Json, known: Annotations) -> object:
    """By what annotations are put together; one without a category stands alone."""
    category = read_key(annotation.get("category_id"))
    return (annotation.get("id"),) if category is None else known.first_namesake(category)


def _ask_category(
    category: object,
    annotations: Sequence[Json],
    known: Annotations,
    source: Source,
    origin: Origin,
) -> GoldQuestion:
    try:
        name = known.name_category(category)
    except RecordRejected as error:
        return refuse_question(Asked("", "{}", "category"), Rejection.of(error), origin)
    asked = Asked(word_name(name), source.name_form, "category", (name,))
    crowds = [each for each in annotations if each.get("iscrowd")]
    things = [each for each in annotations if not each.get("iscrowd")]
    try:
        targets = [known.make_target(each, name) for each in things]
        ignored = _join([read_segmentation(each.get("segmentation")) for each in crowds])
    except RecordRejected as error:
        return refuse_question(asked, Rejection.of(error), origin)
    if source.mask_of == "category" and targets:
        shapes = tuple(each.shape for each in targets)
        targets = [replace(targets[0], shape=Union(shapes))]
    answer = compose_unnamed(len(targets), f"{origin.image}\n{name}")
    return answer_question(asked, answer, targets, origin, ignored)


def _join(shapes: Sequence[Shape]) -> Shape | None:
    return Union(tuple(shapes)) if shapes else None


def _choose_absent(
    number: Id, image: Json, present: Mapping[object, object], known: Annotations
) -> list[Id]:
    """Categories that the image has not, in an order that is always the same for an image."""
    checked = image.get("neg_category_ids")
    pool = [read_key(each) for each in checked] if isinstance(checked, list) else known.categories
    free = [known.first_namesake(key) for key in pool if key is not None]
    away = {key for key in free if key in known.categories and key not in present}
    return sorted(away, key=lambda key: choose(f"{number}\n{key}", 2**60))
