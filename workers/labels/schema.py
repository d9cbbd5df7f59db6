"""The columns of the label table, as Arrow knows them. What they mean: `LabelRow`, `TargetRow`."""

import pyarrow as pa

SCHEMA_VERSION = "1"
"""Of the columns below. It is part of the label fingerprint: another version, other labels."""
RLE_FORM = "coco_compressed_rle, counts ascii"
MASK_FRAME = "exif_applied"


def _field(name: str, kind: pa.DataType) -> pa.Field:
    """A column; a `?` behind its name says that it may be null."""
    return pa.field(name.rstrip("?"), kind, nullable=name.endswith("?"))


TARGET_TYPE = pa.struct(
    [
        _field("target_index", pa.int32()),
        _field("target_id", pa.string()),
        _field("phrase?", pa.string()),
        _field("span_start?", pa.int32()),
        _field("span_end?", pa.int32()),
        _field("phrase_source", pa.string()),
        _field("category?", pa.string()),
        _field("category_id?", pa.int64()),
        _field("bbox", pa.list_(pa.float32(), 4)),
        _field("area", pa.int64()),
        _field("rle_size", pa.list_(pa.int32(), 2)),
        _field("rle_counts", pa.string()),
        _field("score", pa.float32()),
        _field("score_mask", pa.float32()),
        _field("score_iou?", pa.float32()),
        _field("score_token?", pa.float32()),
        _field("n_components", pa.int32()),
        _field("touches_border", pa.bool_()),
        _field("max_iou_other", pa.float32()),
        _field("flags", pa.list_(pa.string())),
    ]
)

LABEL_SCHEMA = pa.schema(
    [
        _field("item_id", pa.string()),
        _field("result_id", pa.string()),
        _field("run_id", pa.string()),
        _field("shard_id", pa.string()),
        _field("row_index", pa.int64()),
        _field("source_id?", pa.string()),
        _field("meta_json?", pa.string()),
        _field("image_uri", pa.string()),
        _field("image_member?", pa.string()),
        _field("image_etag?", pa.string()),
        _field("image_sha256", pa.string()),
        _field("width", pa.int32()),
        _field("height", pa.int32()),
        _field("exif_orientation", pa.int32()),
        _field("instruction_id", pa.string()),
        _field("instruction", pa.string()),
        _field("instruction_kind", pa.string()),
        _field("requested_classes?", pa.list_(pa.string())),
        _field("status", pa.string()),
        _field("error_code?", pa.string()),
        _field("error_message?", pa.string()),
        _field("attempts", pa.int32()),
        _field("answer_text?", pa.string()),
        _field("n_targets", pa.int32()),
        _field("targets", pa.list_(TARGET_TYPE)),
        _field("qa_flags", pa.list_(pa.string())),
        _field("review", pa.string()),
        _field("origin", pa.string()),
        _field("model_id", pa.string()),
        _field("model_sha256", pa.string()),
        _field("adapter_sha256?", pa.string()),
        _field("label_fingerprint", pa.string()),
        _field("code_version", pa.string()),
        _field("precision", pa.string()),
        _field("decode_json", pa.string()),
        _field("created_at", pa.timestamp("us", tz="UTC")),
        _field("latency_ms", pa.float32()),
    ]
)
"""The columns, in order."""

REPEATED_COLUMNS = [
    field.name
    for field in LABEL_SCHEMA
    if field.type == pa.string() and field.name not in ("item_id", "result_id", "meta_json")
]
"""Written with a dictionary; ids and masks differ in every row, and a dictionary costs twice."""
