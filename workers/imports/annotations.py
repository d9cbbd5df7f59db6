"""A COCO instance file as other forms refer to it: images, categories, and annotations by id.

Annotations are kept as the text that they are in the file and read when they are wanted: the memory
is about twice that of the file, where Python's own objects would take ten times as much.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.errors import RecordRejected
from workers.imports.gold import GoldTarget, Size
from workers.imports.shapes import read_segmentation
from workers.imports.source import Source, image_key, read_category_id, read_size
from workers.imports.wording import word_name
from workers.json_stream import Entry, Json
from workers.records.record import ImageRef
from workers.records.rejections import Reason, Rejection, quote

Id = int | str


@dataclass(slots=True)
class Annotations:
    """What a file holds; entries without an id are not kept, since nothing can refer to them."""

    images: dict[Id, Json] = field(default_factory=dict)
    categories: dict[Id, str] = field(default_factory=dict)
    namesakes: dict[str, Id] = field(default_factory=dict)
    """name as it is asked for -> the first category that is called so"""
    first_of: dict[Id, Id] = field(default_factory=dict)
    """category -> the first one that is called as it is"""
    texts: dict[Id, bytes] = field(default_factory=dict)
    """id of an annotation -> the annotation"""
    of_image: dict[Id, list[Id]] = field(default_factory=dict)
    """id of an image -> ids of its annotations, in the order of the file"""

    def add(self, entry: Entry) -> bool:
        """Takes in an entry of one of the lists; False when it can't be used: an id twice, say."""
        value = entry.value
        number = read_key(value.get("id")) if isinstance(value, Mapping) else None
        if number is None or not isinstance(value, Mapping):
            return False
        match entry.key:
            case "images":
                return self.images.setdefault(number, value) is value
            case "categories":
                return self._add_category(number, str(value.get("name") or number))
            case "annotations":
                return self._add_annotation(number, value, entry.text)
        return True

    def _add_category(self, number: Id, name: str) -> bool:
        if number in self.categories:
            return False
        self.categories[number] = name
        self.first_of[number] = self.namesakes.setdefault(word_name(name), number)
        return True

    def _add_annotation(self, number: Id, value: Json, text: str) -> bool:
        image = read_key(value.get("image_id"))
        if image is None or number in self.texts:
            return False
        self.texts[number] = text.encode("utf-8", "surrogatepass")
        self.of_image.setdefault(image, []).append(number)
        return True

    def get(self, number: object) -> Json:
        """One annotation.

        Raises:
            RecordRejected: there is none.
        """
        key = read_key(number)
        if key is None or key not in self.texts:
            raise RecordRejected(
                Reason.ANNOTATION_MISSING, f"there is no annotation {quote(number)} in the file"
            )
        found: Json = json.loads(self.texts[key])
        return found

    def name_category(self, number: object) -> str:
        """The name of a category.

        Raises:
            RecordRejected: there is none.
        """
        key = read_key(number)
        if key is None or key not in self.categories:
            raise RecordRejected(
                Reason.ANNOTATION_MISSING, f"there is no category {quote(number)} in the file"
            )
        return self.categories[key]

    def first_namesake(self, category: Id) -> Id:
        """The first category that is asked for by the same words."""
        return self.first_of.get(category, category)

    def make_target(self, annotation: Json, phrase: str) -> GoldTarget:
        """An annotation as the target of a question that names it.

        Raises:
            RecordRejected: its mask or its category can't be read.
        """
        number = annotation.get("category_id")
        return GoldTarget(
            shape=read_segmentation(annotation.get("segmentation")),
            phrase=phrase,
            span=None,
            phrase_source="instruction",
            category=self.name_category(number),
            category_id=read_category_id(number),
        )


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """Where an image may lie, what it is called, and how large it is."""

    refs: tuple[ImageRef, ...] = ()
    name: str = ""
    size: Size | None = None
    rejection: Rejection | None = None
    """why nothing is known of it: it is not in the file, or leads out of the images"""


def place_image(image: Json | None, number: object, source: Source) -> PlacedImage:
    """Finds out where an image of the file lies."""
    if image is None:
        message = f"there is no image {quote(number)} in the file"
        return PlacedImage(rejection=Rejection(Reason.ANNOTATION_MISSING, message))
    key = image_key(image)
    name = image.get(key)
    try:
        refs = source.find_named(name, key)
    except RecordRejected as error:
        return PlacedImage(rejection=Rejection.of(error))
    base = str(name).rpartition("/")[2] if key == "coco_url" else str(name)
    return PlacedImage(refs, base, read_size(image.get("height"), image.get("width")))


def read_key(value: object) -> Id | None:
    """An id; numbers and texts are taken, and nothing else."""
    return value if isinstance(value, str) or type(value) is int else None
