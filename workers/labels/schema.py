"""The columns of the label table: what each one means, and its type in Parquet.

The dataclasses are the whole contract: the Arrow schema is made from their fields, and the table
of columns in the README from the lines below them. Another schema is another SCHEMA_VERSION.
"""

from dataclasses import dataclass, is_dataclass
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

SCHEMA_VERSION = "2"
"""Of the columns below. It is part of the label fingerprint: another version, other labels."""
RLE_FORM = "coco_compressed_rle, counts ascii"
MASK_FRAME = "exif_applied"

Int32 = Annotated[int, pa.int32()]
Float32 = Annotated[float, pa.float32()]
_ARROW: dict[object, pa.DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    datetime: pa.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True, slots=True)
class TargetRow:
    """One mask of an answer."""

    target_index: Int32
    """its place in the answer, from 0"""
    target_id: str
    """32 hex digits, made of `result_id` and `target_index`"""
    phrase: str | None
    """what the answer calls it; null where nothing was found that surely names it"""
    span_start: Int32 | None
    """where the phrase begins in `answer_text`, in code points; null when it is not there"""
    span_end: Int32 | None
    """where it ends: the code point after its last one"""
    phrase_source: str
    """where the phrase comes from: `answer`, `instruction`, `annotation` (of an imported label: the
    name that it gives the mask, which its text does not use) or `none`"""
    category: str | None
    """the one of `requested_classes` that the phrase names, or the only one; of an imported label,
    its own"""
    category_id: int | None
    """the number of `category` in the file that the label was imported from, else null"""
    bbox: tuple[Float32, Float32, Float32, Float32]
    """x, y, width, height in pixels from the upper left corner; all 0 when the mask is empty"""
    area: int
    """pixels that are set in the mask; 0 when it is empty"""
    rle_size: tuple[Int32, Int32]
    """height and width of the mask in pixels: those of the picture"""
    rle_counts: str
    """the mask as COCO's compressed run lengths, in ASCII"""
    score: Float32
    """how good the target is likely to be, 0 to 1: what `--calibration` makes of one of the scores
    below; without it, or where that one is null, the same as `score_mask`"""
    score_mask: Float32
    """mean probability of the mask's pixels, 0 to 1"""
    score_iou: Float32 | None
    """the IoU that the model's decoder predicts for the mask; it means nothing where that was not
    trained, as in the released and the shipped weights"""
    score_token: Float32 | None
    """probability of the target's tokens in the answer, 0 to 1"""
    score_phrase: Float32 | None
    """probability of the tokens of its phrase, 0 to 1; null when the phrase is not in the answer"""
    n_components: Int32
    """connected parts of the mask; pixels that touch at a corner are connected"""
    touches_border: bool
    """whether the mask reaches the border of the picture"""
    max_iou_other: Float32
    """largest overlap (IoU) with another mask of the same answer, 0 to 1"""
    flags: tuple[str, ...]
    """`duplicate_mask`: it covers the same as another of the answer; `empty_mask`: no pixel;
    `ignore_region`: no mask of the answer, has no `[SEG]` and stands behind all others: an imported
    label says of these pixels that they count neither for nor against"""


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One instruction for one image, with its outcome."""

    item_id: str
    """SHA-256 of the image's SHA-256 (its address, if unread) and the instruction"""
    result_id: str
    """SHA-256 of `item_id` and `label_fingerprint`: the same item, labelled in the same way"""
    run_id: str
    """the run that committed the row: its input, instructions and label fingerprint"""
    shard_id: str
    """the part of the input that the record stood in; it names the part of the table too"""
    row_index: int
    """the record's place in its shard, from 0"""
    source_id: str | None
    """the input's own name for the record: its id, or its key in a tar"""
    meta_json: str | None
    """keys of the record that mean nothing here, as a JSON object; of an imported label, `source`
    holds what its form needs to be written again"""
    image_uri: str
    """the image file, or the archive or table that holds it; empty if the record names none"""
    image_member: str | None
    """which image of `image_uri`: the member's name in a tar; in Parquet the row's number, from 0,
    with `/` and the image's own path where it has one"""
    image_etag: str | None
    """the store's version of the image file, if the listing gave it"""
    image_sha256: str
    """of the image file's bytes, 64 hex digits; empty if they could not be had"""
    width: Int32
    """of the upright picture, in pixels; 0 if it could not be decoded"""
    height: Int32
    """of the upright picture, in pixels; 0 if it could not be decoded"""
    exif_orientation: Int32
    """what the file says, 1 to 8 (0: not decoded); masks lie in the frame in which it is applied"""
    instruction_id: str
    """the user's id for the instruction, or 16 hex digits made of its text"""
    instruction: str
    """what was asked, cleaned"""
    instruction_kind: str
    """the user's word for the kind of question, or `unspecified`; it is only carried along. Of an
    imported label `reasoning`, `referring`, `multi_referring` or `category`"""
    requested_classes: tuple[str, ...] | None
    """names that the targets were to be sorted into"""
    status: str
    """`ok`; `empty`: the model said that nothing matches; `partial`: the answer broke off or held a
    malformed token group, or a person only said where what was asked for is, as in a crowd of
    COCO's; `rejected_input`: with the reason; `failed`: ours, after retries"""
    error_code: str | None
    """why there is no answer: a `Reason` of the input, or `model_failed`"""
    error_message: str | None
    """the same as a sentence that names the file, line or value"""
    attempts: Int32
    """which attempt at the shard made the row, from 1"""
    answer_text: str | None
    """what the model said, or what an imported label says; every target is a `[SEG]` in it"""
    n_targets: Int32
    """length of `targets`"""
    targets: tuple[TargetRow, ...]
    """one for each mask, in the order of the answer: see below"""
    qa_flags: tuple[str, ...]
    """`malformed`, `truncated`, and each flag that one of the targets has"""
    review: str
    """`none`, `queued`, `accepted`, `rejected` or `corrected`; today always `none`"""
    origin: str
    """who made the label: `model` or `human`, which is an imported one"""
    model_id: str
    """the name of the model's folder, or its place in a bucket; empty where a person made the
    label, and so are the next one and `precision`"""
    model_sha256: str
    """digest of the model's files, 64 hex digits"""
    adapter_sha256: str | None
    """digest of the adapter's files, 64 hex digits; null where the model was alone"""
    label_fingerprint: str
    """digest of all that decides a label besides its image and instruction"""
    code_version: str
    """version of the program that asked the model, or imported the label"""
    precision: str
    """of the numbers that the model computed with: `fp32` or `bf16`"""
    decode_json: str
    """how answers were generated, and the SHA-256 of the calibration, as a JSON object; of an
    imported label, what it was imported from, and how"""
    created_at: datetime
    """when the attempt that made the row began, in UTC"""
    latency_ms: Float32
    """milliseconds from the record's questions to their answers, waiting included; 0 without one"""


def _make_field(name: str, hint: object) -> pa.Field:
    """The column of a field; it may be null where the field may be None."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    (kind,) = (each for each in kinds if each is not NoneType)
    return pa.field(name, _find_type(kind), nullable=len(kinds) > 1)


def _find_type(kind: object) -> pa.DataType:
    if get_origin(kind) is Annotated:
        return get_args(kind)[1]
    if isinstance(kind, type) and is_dataclass(kind):
        return pa.struct(_make_fields(kind))
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        return pa.list_(_find_type(first), -1 if others == [...] else 1 + len(others))
    return _ARROW[kind]


def _make_fields(row: type) -> list[pa.Field]:
    hints = get_type_hints(row, include_extras=True)
    return [_make_field(name, hint) for name, hint in hints.items()]


LABEL_SCHEMA = pa.schema(_make_fields(LabelRow))
"""The columns, in order."""
TARGET_TYPE = LABEL_SCHEMA.field("targets").type.value_type
"""A struct: the fields of a target, in order."""

REPEATED_COLUMNS = [
    field.name
    for field in LABEL_SCHEMA
    if field.type == pa.string() and field.name not in ("item_id", "result_id", "meta_json")
]
"""Written with a dictionary; ids and masks differ in every row, and a dictionary costs twice."""
