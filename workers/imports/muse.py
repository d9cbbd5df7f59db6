"""MUSE and MMR: a list of images, each with questions whose answers are instances.

    {"file_name" or "coco_url", "height", "width", "questions": [text, ...],
     "answers": [[instance, ...], ...], "text_answers": [text with {seg}, or null, ...]}

An instance has a `segmentation`, a `category_name` and, most often, a `rephrased_name`. `ann_list`
repeats the instances for the official loader and is not read. One entry is held at a time.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest

from pixellm.answers import SEG_MARK
from pixellm.phrases import find_phrases
from workers.errors import RecordRejected
from workers.imports.gold import (
    Asked,
    GoldQuestion,
    GoldRecord,
    GoldTarget,
    answer_question,
    make_record,
    refuse_question,
)
from workers.imports.shapes import read_segmentation
from workers.imports.source import Source, image_key, read_category_id, read_id, read_size
from workers.imports.wording import choose, compose_named, enumerate_words
from workers.json_stream import Json
from workers.labels.origins import SEG, Origin
from workers.records.rejections import Reason, Rejection, quote

_RARELY = 10  # of so many names one is the category's, though there is a better one


def read_muse(source: Source, left_out: Counter[str]) -> Iterator[GoldRecord]:
    """Reads a file.

    Raises:
        PlanError: it is no JSON.
    """
    return source.records(partial(_read_entry, source))


def _read_entry(source: Source, entry: Json) -> GoldRecord:
    key = image_key(entry)
    name = entry.get(key)
    origin = Origin(image=name if isinstance(name, str) else "", image_key=key)
    return make_record(
        read_id(entry.get("id", name)),
        partial(source.find_named, name, key),
        _read_questions(entry, origin, source),
        read_size(entry.get("height"), entry.get("width")),
    )


def _read_questions(entry: Json, origin: Origin, source: Source) -> Iterator[GoldQuestion]:
    questions, answers = _list(entry.get("questions")), _list(entry.get("answers"))
    texts = _list(entry.get("text_answers"))
    counts = [len(questions), len(answers), *([len(texts)] if texts else [])]
    for place in range(max(counts)):
        question = questions[place] if place < len(questions) else ""
        asked = Asked(question, source.sentence_form, "reasoning")
        here = replace(origin, place=place)
        try:
            if place >= min(counts):
                raise RecordRejected(Reason.ANSWER_MISMATCH, _say_counts(counts))
            yield _answer(asked, answers[place], texts[place] if texts else None, here)
        except RecordRejected as error:
            yield refuse_question(asked, Rejection.of(error), here)


def _say_counts(counts: Sequence[int]) -> str:
    names = ("questions", "answers", "text_answers")
    told = enumerate_words([f"{n} {name}" for n, name in zip(counts, names, strict=False)])
    return f"the entry has {told}, and the last have no others to go with"


def _answer(asked: Asked, answer: object, text: object, origin: Origin) -> GoldQuestion:
    if not isinstance(answer, list) or not all(isinstance(each, Mapping) for each in answer):
        raise RecordRejected(
            Reason.RECORD_BROKEN, f"an answer must be a list of instances, not {quote(answer)}"
        )
    if text is None:
        return _compose(asked, answer, origin)
    if not isinstance(text, str):
        raise RecordRejected(Reason.RECORD_BROKEN, f"a text answer can't be {quote(text)}")
    marked = text.replace(SEG, SEG_MARK)
    marks = [each.span() for each in re.finditer(re.escape(SEG_MARK), marked)]
    spans = find_phrases(marked, marks)
    names = [_name(each) for each in answer]
    targets = [
        _target(
            instance,
            *((marked[slice(*span)], span, "answer") if span else _of_annotation(name)),
        )
        for instance, name, span in zip_longest(answer, names, spans[: len(answer)])
    ]
    origin = replace(origin, names=_kept_names(answer, targets))
    return answer_question(asked, marked, targets, origin)


def _compose(asked: Asked, answer: Sequence[Json], origin: Origin) -> GoldQuestion:
    # not the question's place: one before it that can't be used does not go out again
    seed = f"{origin.image}\n{asked.text}"
    names = [
        _text(each, "category_name") if choose(f"{seed}\n{n}", _RARELY) == 0 else None
        for n, each in enumerate(answer)
    ]
    said = [rare or _name(each) or "it" for rare, each in zip(names, answer, strict=True)]
    composed = compose_named(said, seed)
    targets = [
        _target(instance, name, span, "answer")
        for instance, name, span in zip(answer, composed.names, composed.spans, strict=True)
    ]
    origin = replace(origin, composed=True, names=_kept_names(answer, targets))
    return answer_question(asked, composed.text, targets, origin)


def _target(
    instance: Json, phrase: str | None, span: tuple[int, int] | None, phrase_source: str
) -> GoldTarget:
    return GoldTarget(
        shape=read_segmentation(instance.get("segmentation")),
        phrase=phrase,
        span=span,
        phrase_source=phrase_source,
        category=_text(instance, "category_name"),
        category_id=read_category_id(instance.get("category_id")),
    )


def _of_annotation(name: str | None) -> tuple[str | None, None, str]:
    return name, None, "annotation" if name else "none"


def _kept_names(answer: Sequence[Json], targets: Sequence[GoldTarget]) -> tuple[str | None, ...]:
    """The rephrased names; none where they are the phrases of the targets."""
    names = tuple(_text(each, "rephrased_name") for each in answer)
    return () if names == tuple(target.phrase for target in targets) else names


def _name(instance: Json) -> str | None:
    return _text(instance, "rephrased_name") or _text(instance, "category_name")


def _text(instance: Json, key: str) -> str | None:
    value = instance.get(key)
    return value if isinstance(value, str) and value else None


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
