import io
import json
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.labels import ATTEMPT, label_photos, make_answer, make_record
from workers.errors import CommitError
from workers.labels.commits import Ledger
from workers.labels.manifests import current_commits
from workers.labels.rows import LabelRow, answer_rows, blank_row, rejected_rows
from workers.labels.schema import LABEL_SCHEMA, TARGET_TYPE
from workers.labels.table import (
    PartIdentity,
    describe_part,
    identify_part,
    read_part,
    read_rows,
    write_part,
)
from workers.labels.targets import TargetRow
from workers.records.pictures import PictureFacts
from workers.records.rejections import Rejection
from workers.storage.memory import MemoryStore

OUTPUT = "mem://bucket/out"
IDENTITY = PartIdentity("run-1", "5" * 20, "f" * 16)


def all_kinds_of_rows():
    """Real answers, and one row of each other kind."""
    empty = answer_rows(
        make_record("s3://b/e.jpg"),
        PictureFacts("ee" * 32, 4, 4, 6),
        [make_answer([])],
        ATTEMPT,
        1.0,
    )
    rejected = rejected_rows(
        make_record("s3://b/r.jpg"), Rejection("image_missing", "gone"), ATTEMPT
    )
    return [*label_photos(), *empty, *rejected]


def by_item(rows):
    return sorted(rows, key=lambda row: row.item_id)


def rounded(row: LabelRow) -> LabelRow:
    """As float32, which the table holds."""

    def score(value):
        return None if value is None else float(np.float32(value))

    targets = tuple(
        replace(
            target,
            score=score(target.score),
            score_mask=score(target.score_mask),
            score_token=score(target.score_token),
            max_iou_other=score(target.max_iou_other),
        )
        for target in row.targets
    )
    return replace(row, targets=targets)


def commit(store, rows, shard_id, run_id="run-1"):
    ledger = Ledger(store, OUTPUT, run_id, describe_part)
    data = write_part(rows, PartIdentity(run_id, shard_id, "f"))
    return ledger.commit(shard_id, data, fingerprint="f", source="in", source_etag="e")[0]


def test_rows_come_back_as_they_were():
    rows = all_kinds_of_rows()
    assert read_part(write_part(rows, IDENTITY)) == by_item(map(rounded, rows))


def test_the_columns_are_the_fields_of_a_row_in_order():
    assert LABEL_SCHEMA.names == [field.name for field in fields(LabelRow)]
    assert [field.name for field in TARGET_TYPE] == [field.name for field in fields(TargetRow)]


def test_a_part_is_sorted_compressed_and_says_what_it_is():
    file = pq.ParquetFile(io.BytesIO(write_part(all_kinds_of_rows(), IDENTITY)))
    footer = {key.decode(): value.decode() for key, value in file.schema_arrow.metadata.items()}
    assert footer["pixellm.schema_version"] == "1"
    assert footer["pixellm.rle"] == "coco_compressed_rle, counts ascii"
    assert footer["pixellm.mask_frame"] == "exif_applied"
    assert json.loads(footer["pixellm.counts"]) == {"ok": 8, "empty": 1, "rejected_input": 1}
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    items = file.read(columns=["item_id"]).column(0).to_pylist()
    assert items == sorted(items)


def test_the_types_are_those_that_readers_rely_on():
    table = pq.read_table(io.BytesIO(write_part(all_kinds_of_rows(), IDENTITY)))
    target = table.schema.field("targets").type.value_type
    assert target.field("bbox").type == pa.list_(pa.float32(), 4)
    assert target.field("rle_size").type == pa.list_(pa.int32(), 2)
    assert target.field("area").type == pa.int64()
    assert table.schema.field("created_at").type == pa.timestamp("us", tz="UTC")
    nullable = {field.name for field in table.schema if field.nullable}
    assert nullable == {
        "source_id", "meta_json", "image_member", "image_etag", "requested_classes",
        "error_code", "error_message", "answer_text", "adapter_sha256",
    }  # fmt: skip


def test_a_part_describes_itself():
    rows = all_kinds_of_rows()
    data = write_part(rows, IDENTITY)
    facts = describe_part(data)
    assert facts.rows == len(rows)
    assert facts.counts == {"ok": 8, "empty": 1, "rejected_input": 1}
    assert facts.targets == sum(len(row.targets) for row in rows) > 20
    assert facts.first_key == min(row.item_id for row in rows)
    assert facts.last_key == max(row.item_id for row in rows)
    assert identify_part(data) == IDENTITY


def test_a_part_without_rows_is_a_part():
    data = write_part([], IDENTITY)
    assert read_part(data) == []
    assert (describe_part(data).rows, describe_part(data).first_key) == (0, "")
    assert identify_part(data) == IDENTITY


def test_text_that_is_no_unicode_is_written_all_the_same():
    row = replace(blank_row(), image_uri="/data/\udcff.jpg", qa_flags=("\ud800",))
    (read,) = read_part(write_part([row], IDENTITY))
    assert (read.image_uri, read.qa_flags) == ("/data/?.jpg", ("?",))


def test_rows_of_one_item_keep_their_order():
    rows = [replace(blank_row(), item_id="a", row_index=index) for index in (3, 1, 2)]
    assert [row.row_index for row in read_part(write_part(rows, IDENTITY))] == [1, 2, 3]


def test_committed_parts_are_streamed_and_no_others():
    store, rows = MemoryStore(), label_photos()
    commit(store, rows[:3], "1" * 20)
    commit(store, rows[3:], "2" * 20)
    store.put(f"{OUTPUT}/labels/run-1/{'3' * 20}.parquet", write_part(rows, IDENTITY))
    read = list(read_rows(store, OUTPUT, current_commits(store, OUTPUT)))
    assert read == [*by_item(map(rounded, rows[:3])), *by_item(map(rounded, rows[3:]))]


def test_columns_that_were_not_asked_for_are_blank():
    store, rows = MemoryStore(), label_photos()
    made = commit(store, rows, "1" * 20)
    columns = ("item_id", "targets.phrase", "targets.area")
    read = list(read_rows(store, OUTPUT, [made], columns))
    assert [row.item_id for row in read] == [row.item_id for row in by_item(rows)]
    assert {(row.status, row.width, row.source_id, row.qa_flags) for row in read} == {
        ("", 0, None, ())
    }
    for row, whole in zip(read, by_item(rows), strict=True):
        assert [t.phrase for t in row.targets] == [t.phrase for t in whole.targets]
        assert [t.area for t in row.targets] == [t.area for t in whole.targets]
        assert {(t.rle_counts, t.flags, t.target_id) for t in row.targets} == {("", (), "")}


def test_what_is_no_part_is_refused():
    with pytest.raises(CommitError, match="no Parquet file"):
        read_part(b"no part")


def test_a_part_of_another_version_is_refused():
    table = pq.read_table(io.BytesIO(write_part([], IDENTITY)))
    buffer = io.BytesIO()
    footer = {**table.schema.metadata, b"pixellm.schema_version": b"9"}
    pq.write_table(table.replace_schema_metadata(footer), buffer)
    with pytest.raises(CommitError, match="version '9'"):
        describe_part(buffer.getvalue())
