"""A record and its answers -> rows of the label table.

Every record gives rows: one for each instruction, or one when it has none. A row is a question
about an image, with its outcome:

    ok              the answer has targets
    empty           the model said that nothing matches
    partial         codebook tokens were left over, or the answer was cut off: whole groups are
                    kept; or a person said only where things are, as in a crowd: no answer
    rejected_input  the image or the instruction can't be used, with the reason
    failed          our side failed, after retries

Where the image could not be read, `image_sha256` is "" and `width`, `height` and `exif_orientation`
are 0; where the record names no image, `image_uri` is "". `item_id` then stands for the address of
the image (or, without one, for the place of the record) instead of its content.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from pixellm.answers import Answer
from workers.labels.calibration import Calibration
from workers.labels.schema import LabelRow, TargetRow
from workers.labels.targets import is_region, target_rows
from workers.records.instructions import Instruction, derive_instruction_id
from workers.records.pictures import PictureFacts
from workers.records.record import ImageRef, Record
from workers.records.rejections import Rejection

LABELLED = ("ok", "empty", "partial")
"""The statuses of rows that a model or a person has answered, if only in part."""
ANSWER_COLUMNS = ("status", "targets.flags")
"""All that `has_answer` needs of a row."""
MODEL_FAILED = "model_failed"
"""The `error_code` of rows of status `failed`."""
_UNREAD = PictureFacts(sha256="", width=0, height=0, exif_orientation=0)


def has_answer(row: LabelRow) -> bool:
    """Whether something was answered, be it that nothing matches.

    What broke off before its first target has not said that, nor has who drew regions to ignore
    alone.
    """
    return row.status in LABELLED and (
        row.status != "partial" or not all(map(is_region, row.targets))
    )


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made the labels of a run; the same for all its rows."""

    run_id: str
    model_id: str
    model_sha256: str
    adapter_sha256: str | None
    label_fingerprint: str
    code_version: str
    precision: str
    decode_json: str
    origin: str = "model"
    calibration: Calibration | None = None
    """of `score`"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The try at a shard that a row comes from; the first has the number 1."""

    provenance: Provenance
    shard_id: str
    number: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one question ended."""

    status: str
    error_code: str | None = None
    error_message: str | None = None
    answer_text: str | None = None
    targets: tuple[TargetRow, ...] = ()
    qa_flags: tuple[str, ...] = ()
    latency_ms: float = 0.0


def answer_row(
    record: Record, picture: PictureFacts, answer: Answer, attempt: Attempt, latency_ms: float
) -> LabelRow:
    """The row of a record with one instruction, which was answered."""
    (instruction,) = record.instructions
    result_id = _result_id(_item_id(record, picture, instruction, attempt), attempt)
    calibration = attempt.provenance.calibration
    targets = target_rows(answer.targets, instruction.classes, result_id, calibration)
    outcome = _describe_answer(answer, targets, latency_ms)
    return _make_row(record, picture, instruction, outcome, attempt)


def rejected_rows(
    record: Record, rejection: Rejection, attempt: Attempt, picture: PictureFacts | None = None
) -> list[LabelRow]:
    """Rows of a record whose image or instruction can't be used.

    Args:
        record: as it was read.
        rejection: `record.rejection`, or what fetching and decoding its image ended with.
        attempt: where the rows come from.
        picture: what is known of the image, if its bytes could be read.
    """
    outcome = Outcome("rejected_input", rejection.code, rejection.message)
    return _rows_without_answer(record, outcome, attempt, picture)


def failed_rows(
    record: Record, why: str, attempt: Attempt, picture: PictureFacts | None = None
) -> list[LabelRow]:
    """Rows of a record that could have been answered, but for a failure of ours.

    Args:
        record: as it was read.
        why: one sentence.
        attempt: where the rows come from.
        picture: what is known of the image.
    """
    return _rows_without_answer(record, Outcome("failed", MODEL_FAILED, why), attempt, picture)


def carry_over(
    row: LabelRow, record: Record, instruction: Instruction, attempt: Attempt
) -> LabelRow:
    """The same answer as a row of another run or shard, or of a picture that was moved."""
    return replace(row, **_place(record, instruction, attempt))


def item_id_of(image: str, instruction: str) -> str:
    """The `item_id` of an instruction and an image, which its SHA-256 stands for."""
    return _digest(f"{image}\n{instruction}")


def blank_row() -> LabelRow:
    """A row that says nothing; what a reader gets for columns that were not asked for."""
    nobody = Provenance("", "", "", None, "", "", "", "", origin="")
    nothing = Record(0, None, None, (), None, None)
    attempt = Attempt(nobody, "", 0, datetime.fromtimestamp(0, UTC))
    row = _make_row(nothing, _UNREAD, Instruction("", "", ""), Outcome(""), attempt)
    return replace(row, item_id="", result_id="", review="")


def _rows_without_answer(
    record: Record, outcome: Outcome, attempt: Attempt, picture: PictureFacts | None
) -> list[LabelRow]:
    instructions = record.instructions or (Instruction(derive_instruction_id(""), ""),)
    return [
        _make_row(record, picture or _UNREAD, instruction, outcome, attempt)
        for instruction in instructions
    ]


def _make_row(
    record: Record,
    picture: PictureFacts,
    instruction: Instruction,
    outcome: Outcome,
    attempt: Attempt,
) -> LabelRow:
    made_by = attempt.provenance
    item_id = _item_id(record, picture, instruction, attempt)
    return LabelRow(
        **_place(record, instruction, attempt),
        item_id=item_id,
        result_id=_result_id(item_id, attempt),
        image_sha256=picture.sha256,
        width=picture.width,
        height=picture.height,
        exif_orientation=picture.exif_orientation,
        status=outcome.status,
        error_code=outcome.error_code,
        error_message=outcome.error_message,
        attempts=attempt.number,
        answer_text=outcome.answer_text,
        n_targets=len(outcome.targets),
        targets=outcome.targets,
        qa_flags=outcome.qa_flags,
        review="none",
        origin=made_by.origin,
        model_id=made_by.model_id,
        model_sha256=made_by.model_sha256,
        adapter_sha256=made_by.adapter_sha256,
        label_fingerprint=made_by.label_fingerprint,
        code_version=made_by.code_version,
        precision=made_by.precision,
        decode_json=made_by.decode_json,
        created_at=attempt.created_at,
        latency_ms=outcome.latency_ms,
    )


def _place(record: Record, instruction: Instruction, attempt: Attempt) -> dict[str, Any]:
    """The columns that say where a row stands and what the input says about it.

    They are all that is new in a row that is carried over, so whatever comes from the record or its
    instruction must be in here: anywhere else, such a row would keep what the old input said.
    """
    image = record.image or ImageRef("", None, None, None)
    return {
        "run_id": attempt.provenance.run_id,
        "shard_id": attempt.shard_id,
        "row_index": record.row_index,
        "source_id": record.source_id,
        "meta_json": record.meta_json,
        "image_uri": image.uri,
        "image_member": image.member,
        "image_etag": image.etag,
        "instruction_id": instruction.instruction_id,
        "instruction": instruction.text,
        "instruction_kind": instruction.kind,
        "requested_classes": instruction.classes or None,
    }


def _item_id(
    record: Record, picture: PictureFacts, instruction: Instruction, attempt: Attempt
) -> str:
    """Names (image, instruction): the same for the same content, wherever and whenever it lies."""
    if picture.sha256:
        image = picture.sha256
    elif record.image:
        image = f"unread {record.image.uri}#{record.image.member or ''}"
    else:
        image = f"no image {attempt.shard_id}:{record.row_index}"
    return item_id_of(image, instruction.text)


def _result_id(item_id: str, attempt: Attempt) -> str:
    return _digest(item_id + attempt.provenance.label_fingerprint)


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "replace")).hexdigest()


def _describe_answer(answer: Answer, targets: tuple[TargetRow, ...], latency_ms: float) -> Outcome:
    said = {"malformed": answer.malformed, "truncated": answer.truncated}
    flags = [name for name, is_so in said.items() if is_so]
    # an answer that was cut off before its first target has not said that nothing matches
    status = "partial" if flags else "ok" if targets else "empty"
    flags += sorted({flag for target in targets for flag in target.flags})
    return Outcome(status, None, None, answer.text, targets, tuple(flags), latency_ms)
