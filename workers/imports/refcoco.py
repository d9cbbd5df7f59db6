"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO: references to the annotations of a COCO instance file.

    refs   {"ref_id", "image_id", "ann_id", "split", "sentences": [{"sent_id", "sent"}, ...]}

They come as a list in a file of their own, with the instances in another; or all in one file, as
`refs` beside `images`, `annotations` and `categories`. `refs.p` is a pickle and never read here:
`python -m workers.imports.refs_pickle` makes the list of it. Where `ann_id` is a list, the
expression means all of them; with `no_target` it means nothing.

Every sentence is a question. Those of an image are also asked several at once, 6, 5 and 4 in turn,
as the official evaluation does. Memory: about twice that of the files.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle

from workers.errors import PlanError, RecordRejected
from workers.imports.annotations import Annotations, Id, place_image, read_key
from workers.imports.gold import (
    Asked,
    GoldQuestion,
    GoldRecord,
    GoldTarget,
    answer_question,
    refuse_question,
)
from workers.imports.source import Source
from workers.imports.wording import compose_marks, compose_unnamed, enumerate_words
from workers.json_stream import Json
from workers.labels.origins import Origin, RefOrigin
from workers.records.rejections import Reason, Rejection, quote
from workers.storage.uris import join_uri, shown

AT_ONCE = (6, 5, 4)
"""Expressions in one question, in turn."""
_INSTANCES = "instances.json"
_PICKLED = b"\x80"
"""The first byte of a pickle, of all forms but the oldest."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One sentence of a reference."""

    origin: RefOrigin
    annotations: tuple[object, ...]
    """ids; none where it means nothing"""
    problem: Rejection | None = None


@dataclass(slots=True)
class _Refs:
    """The expressions of each image, in the order of the file."""

    of_image: dict[Id, list[Expression]] = field(default_factory=dict)
    broken: list[Rejection] = field(default_factory=list)
    """entries that are no references"""
    numbers: Iterator[int] = field(default_factory=count)


def read_refcoco(source: Source, left_out: Counter[str]) -> Iterator[GoldRecord]:
    """Reads the files.

    Raises:
        PlanError: one is no JSON, or there are no references.
    """
    refs, known = _read_files(source, left_out)
    for number, expressions in refs.of_image.items():
        yield _make_record(number, expressions, known, source)
    for why in refs.broken:
        yield GoldRecord(None, (), (), rejection=why)


def find_instances(source: Source) -> str:
    """The file with the annotations, where they don't stand beside the references."""
    return source.instances or join_uri(source.input.rpartition("/")[0], _INSTANCES)


def _refuse_a_pickle(source: Source) -> None:
    if source.store.get(source.input, 0, 1) == _PICKLED:
        raise PlanError(
            f"{shown(source.input)} is a pickle, which is a program and never opened here:"
            " `python -m workers.imports.refs_pickle FILE refs.json` makes JSON of it without"
            " running anything, and that is the --input"
        )


def _read_files(source: Source, left_out: Counter[str]) -> tuple[_Refs, Annotations]:
    _refuse_a_pickle(source)
    refs, known, beside = _Refs(), Annotations(), False
    for entry in source.entries(source.input):
        if entry.key in ("", "refs"):
            _add_ref(refs, entry.value, source, left_out)
        else:
            known.add(entry)
            beside = beside or entry.key == "annotations"
    if not refs.of_image and not refs.broken and not left_out:
        raise PlanError(f"{shown(source.input)} holds no references: neither a list nor `refs`")
    if not beside:
        for entry in source.entries(find_instances(source)):
            known.add(entry)
    return refs, known


def _add_ref(refs: _Refs, ref: object, source: Source, left_out: Counter[str]) -> None:
    number = next(refs.numbers)
    sentences = ref.get("sentences") if isinstance(ref, Mapping) else None
    image = read_key(ref.get("image_id")) if isinstance(ref, Mapping) else None
    if (
        not isinstance(ref, Mapping)
        or not isinstance(sentences, list)
        or image is None
        or not sentences
    ):
        message = f"a reference needs an image_id and sentences, and is {quote(ref)}"
        refs.broken.append(Rejection(Reason.RECORD_BROKEN, message))
        return
    if source.split is not None and ref.get("split") != source.split:
        left_out[f"references of other splits than {source.split!r}"] += 1
        return
    ref_id = ref.get("ref_id")
    number = ref_id if type(ref_id) is int else number
    for place, sentence in enumerate(sentences):
        expression = _read_expression(ref, number, place, sentence)
        refs.of_image.setdefault(image, []).append(expression)


def _read_expression(ref: Json, number: int, place: int, sentence: object) -> Expression:
    told = sentence if isinstance(sentence, Mapping) else {"sent": sentence}
    text, sent_id = told.get("sent", told.get("raw")), told.get("sent_id")
    problem = None
    if not isinstance(text, str):
        message = f"a sentence must be a text, not {quote(sentence)}"
        problem = Rejection(Reason.INSTRUCTION_INVALID, message)
    origin = RefOrigin(
        ref=number,
        sentence=sent_id if type(sent_id) is int else place,
        text=text if isinstance(text, str) else quote(sentence),
        split=str(ref.get("split") or ""),
    )
    return Expression(origin, _list_annotations(ref), problem)


def _list_annotations(ref: Json) -> tuple[object, ...]:
    named = ref.get("ann_id")
    numbers = named if isinstance(named, list) else [named]
    # gRefCOCO writes [-1] where nothing matches
    return () if ref.get("no_target") is True or numbers == [-1] else tuple(numbers)


def _make_record(
    number: Id, expressions: Sequence[Expression], known: Annotations, source: Source
) -> GoldRecord:
    placed = place_image(known.images.get(number), number, source)
    origin = Origin(image=placed.name, image_key="file_name")
    asker = _Asker(known, source, origin)
    return GoldRecord(
        source_id=f"{number}",
        images=placed.refs,
        questions=tuple(asker.ask(expressions)),
        size=placed.size,
        rejection=placed.rejection,
    )


@dataclass(slots=True)
class _Asker:
    """Makes the questions of one image."""

    known: Annotations
    source: Source
    origin: Origin
    place: int = 0

    def ask(self, expressions: Sequence[Expression]) -> Iterator[GoldQuestion]:
        """One by one, then several at once."""
        if self.source.referring != "multi":
            for expression in expressions:
                yield self._ask([expression], expression.origin.text.lower(), "referring")
        if self.source.referring != "single":
            # what means several things, or nothing, can't share a question: which marks are whose?
            single = [each for each in expressions if len(each.annotations) == 1]
            for group in _cut(single):
                names = enumerate_words([each.origin.text.lower() for each in group])
                yield self._ask(group, names, "multi_referring")

    def _ask(self, group: Sequence[Expression], text: str, kind: str) -> GoldQuestion:
        asked = Asked(text, self.source.name_form, kind)
        refs = tuple(each.origin for each in group)
        origin = Origin(self.place, self.origin.image, self.origin.image_key, refs=refs)
        self.place += 1
        try:
            targets = [target for each in group for target in self._make_targets(each)]
        except RecordRejected as error:
            return refuse_question(asked, Rejection.of(error), origin)
        if kind == "referring":
            answer = compose_unnamed(len(targets), f"{origin.image}\n{text}")
        else:
            answer = compose_marks(len(targets))
        return answer_question(asked, answer, targets, origin)

    def _make_targets(self, expression: Expression) -> list[GoldTarget]:
        if expression.problem is not None:
            raise RecordRejected(expression.problem.code, expression.problem.message)
        found = [self.known.get(number) for number in expression.annotations]
        return [self.known.make_target(each, expression.origin.text) for each in found]


def _cut(expressions: Sequence[Expression]) -> Iterator[Sequence[Expression]]:
    at, sizes = 0, cycle(AT_ONCE)
    while at < len(expressions):
        size = next(sizes)
        yield expressions[at : at + size]
        at += size
