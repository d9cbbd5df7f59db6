"""Questions and answers -> one MUSE file, which `jobs/convert.py --from muse` reads again.

Masks are plain run lengths: of run lengths the official loader reads no others.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pixellm.answers import SEG_MARK
from workers.errors import ExportError
from workers.exports.categories import OBJECT
from workers.exports.lists import check_entries, write_list
from workers.exports.questions import ImageNames, Question, read_entries, read_names
from workers.exports.selection import REGIONS, ExportOptions, ExportSummary
from workers.json_stream import Json
from workers.labels.origins import SEG
from workers.labels.parts import LabelTable
from workers.labels.rle import read_runs
from workers.labels.schema import TargetRow


def write_muse(file: BinaryIO, table: LabelTable, options: ExportOptions) -> ExportSummary:
    """Writes the file. Memory: a part of the table, and 500 bytes for each image.

    Raises:
        ExportError: a mask in the table is broken.
    """
    left_out, counts = Counter[str](), Counter[str]()
    names = read_names(table)
    entries = (_write_entry(each, names, counts) for each in read_entries(table, left_out))
    write_list(file, entries)
    left_out[REGIONS] = counts["ignored"]
    others = {"questions": counts["questions"]}
    return ExportSummary(counts["entries"], counts["masks"], others, left_out)


def check_muse(path: Path) -> list[str]:
    """What is wrong with a file, one sentence each."""
    return check_entries(path, lambda _, entry: _check_entry(entry))


def _write_entry(
    questions: Sequence[Question], names: ImageNames, counts: Counter[str]
) -> Mapping[str, object]:
    first = questions[0]
    name, row = names.of(first), first.row
    answers = [
        [_write_instance(question, index) for index in range(len(question.targets))]
        for question in questions
    ]
    counts["entries"] += 1
    counts["questions"] += len(questions)
    counts["masks"] += sum(map(len, answers))
    counts["ignored"] += sum(len(question.ignored) for question in questions)
    return {
        **({} if row.source_id in (None, name) else {"id": row.source_id}),
        "coco_url" if first.origin.image_key == "coco_url" else "file_name": name,
        "height": row.height,
        "width": row.width,
        "ann_list": _once(instance for answer in answers for instance in answer),
        "questions": [question.text for question in questions],
        "answers": answers,
        "text_answers": [_write_text(question) for question in questions],
    }


def _write_text(question: Question) -> str | None:
    if question.origin.composed:
        return None
    return question.answer.replace(SEG_MARK, SEG)


def _write_instance(question: Question, index: int) -> Json:
    target, names = question.targets[index], question.origin.names
    rephrased = names[index] if index < len(names) else target.phrase
    return {
        "segmentation": _write_mask(target),
        "bbox": list(target.bbox),
        "area": target.area,
        "category_id": target.category_id,  # null where there is none: 0 is an id of some files
        "category_name": target.category or OBJECT,  # the official loader wants one
        **({"rephrased_name": rephrased} if rephrased else {}),
    }


def _write_mask(target: TargetRow) -> Json:
    runs = read_runs(target.rle_size, target.rle_counts)
    return {"size": list(runs.size), "counts": runs.counts.tolist()}


def _once(instances: Iterable[Json]) -> list[Json]:
    """Each mask one time, though several questions may mean it."""
    return list({str(each["segmentation"]): each for each in instances}.values())


def _check_entry(entry: Mapping[str, Any]) -> Iterator[str]:
    size = (entry.get("height"), entry.get("width"))
    try:
        asked = zip(entry["questions"], entry["answers"], entry["text_answers"], strict=True)
        for question, answer, text in asked:
            if text is not None and text.count(SEG) != len(answer):
                yield f"the answer to {question!r} has {len(answer)} masks, its text other marks"
            for each in answer:
                mask = each["segmentation"]
                if tuple(mask["size"]) != size:
                    yield f"a mask of {mask['size']!r} for a picture of {size!r} (height, width)"
                read_runs(tuple(mask["size"]), mask["counts"])
    except (KeyError, TypeError, ValueError, ExportError) as error:
        yield f"{type(error).__name__}: {error}"
