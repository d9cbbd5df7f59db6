import io
import json
import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.labels import ATTEMPT, label_photos, make_answer, make_record
from workers.errors import CommitError, ObjectMissing
from workers.labels.commits import Ledger, now
from workers.labels.manifests import current_commits, finish_run
from workers.labels.parts import read_rows
from workers.labels.rows import answer_row, blank_row, rejected_rows
from workers.labels.schema import LABEL_SCHEMA, TARGET_TYPE, LabelRow
from workers.labels.table import PartIdentity, PartReader, describe_part, read_part, write_part
from workers.records.pictures import PictureFacts
from workers.records.rejections import Rejection
from workers.storage.memory import MemoryStore

OUTPUT = "mem://bucket/out"
IDENTITY = PartIdentity("run-1", "5" * 20, "f" * 16)


def all_kinds_of_rows():
    """Real answers, and one row of each other kind."""
    facts = PictureFacts("ee" * 32, 4, 4, 6)
    empty = answer_row(make_record("s3://b/e.jpg"), facts, make_answer([]), ATTEMPT, 1.0)
    rejected = rejected_rows(
        make_record("s3://b/r.jpg"), Rejection("image_missing", "gone"), ATTEMPT
    )
    return [*label_photos(), empty, *rejected]


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
            score_phrase=score(target.score_phrase),
            max_iou_other=score(target.max_iou_other),
        )
        for target in row.targets
    )
    return replace(row, targets=targets)


def commit(store, rows, shard_id, run_id="run-1"):
    ledger = Ledger(store, OUTPUT, run_id)
    data = write_part(rows, PartIdentity(run_id, shard_id, "f"))
    return ledger.commit(shard_id, data, fingerprint="f", source="in", source_etag="e")[0]


def test_rows_come_back_as_they_were():
    rows = all_kinds_of_rows()
    assert read_part(write_part(rows, IDENTITY)) == by_item(map(rounded, rows))


def test_a_part_is_sorted_compressed_and_says_what_it_is():
    file = pq.ParquetFile(io.BytesIO(write_part(all_kinds_of_rows(), IDENTITY)))
    footer = {key.decode(): value.decode() for key, value in file.schema_arrow.metadata.items()}
    assert footer["pixellm.schema_version"] == "2"
    assert footer["pixellm.rle"] == "coco_compressed_rle, counts ascii"
    assert footer["pixellm.mask_frame"] == "exif_applied"
    assert json.loads(footer["pixellm.counts"]) == {"ok": 8, "empty": 1, "rejected_input": 1}
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    items = file.read(columns=["item_id"]).column(0).to_pylist()
    assert items == sorted(items)


COLUMNS = """\
item_id: string not null
result_id: string not null
run_id: string not null
shard_id: string not null
row_index: int64 not null
source_id: string
meta_json: string
image_uri: string not null
image_member: string
image_etag: string
image_sha256: string not null
width: int32 not null
height: int32 not null
exif_orientation: int32 not null
instruction_id: string not null
instruction: string not null
instruction_kind: string not null
requested_classes: list<item: string>
status: string not null
error_code: string
error_message: string
attempts: int32 not null
answer_text: string
n_targets: int32 not null
targets: list<item: struct<...>> not null
qa_flags: list<item: string> not null
review: string not null
origin: string not null
model_id: string not null
model_sha256: string not null
adapter_sha256: string
label_fingerprint: string not null
code_version: string not null
precision: string not null
decode_json: string not null
created_at: timestamp[us, tz=UTC] not null
latency_ms: float not null
"""
TARGETS = """\
target_index: int32 not null
target_id: string not null
phrase: string
span_start: int32
span_end: int32
phrase_source: string not null
category: string
category_id: int64
bbox: fixed_size_list<item: float>[4] not null
area: int64 not null
rle_size: fixed_size_list<item: int32>[2] not null
rle_counts: string not null
score: float not null
score_mask: float not null
score_iou: float
score_token: float
score_phrase: float
n_components: int32 not null
touches_border: bool not null
max_iou_other: float not null
flags: list<item: string> not null
"""


def spell(columns) -> str:
    """A line for each column, in Arrow's words."""
    lines = [f"{c.name}: {c.type}" + " not null" * (not c.nullable) for c in columns]
    return "".join(re.sub("struct<.*>>", "struct<...>>", line) + "\n" for line in lines)


def test_the_columns_are_those_that_readers_rely_on():
    """A contract: where it changes on purpose, so do SCHEMA_VERSION and the CHANGELOG."""
    assert (spell(LABEL_SCHEMA), spell(TARGET_TYPE)) == (COLUMNS, TARGETS)
    written = pq.read_table(io.BytesIO(write_part(all_kinds_of_rows(), IDENTITY))).schema
    target = written.field("targets").type.value_type
    # pyarrow calls the values of a list "item", Parquet's own name for them is "element"
    assert [spell(each).replace("<element", "<item") for each in (written, target)] == [
        COLUMNS,
        TARGETS,
    ]


def test_a_part_describes_itself():
    rows = all_kinds_of_rows()
    data = write_part(rows, IDENTITY)
    facts = describe_part(data)
    assert facts.rows == len(rows)
    assert facts.counts == {"ok": 8, "empty": 1, "rejected_input": 1}
    assert facts.errors == {"image_missing": 1}
    assert facts.targets == sum(len(row.targets) for row in rows) > 20
    assert PartReader(io.BytesIO(data), "").identity == IDENTITY


def test_a_part_without_rows_is_a_part():
    data = write_part([], IDENTITY)
    assert read_part(data) == []
    assert (describe_part(data).rows, describe_part(data).counts) == (0, {})


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


def overwrite(store, made, rows, **other):
    """As nobody should: after the marker was written."""
    identity = {"run_id": made.run_id, "shard_id": made.shard_id, "label_fingerprint": "f", **other}
    store.put(f"{OUTPUT}/{made.part}", write_part(rows, PartIdentity(**identity)))


@pytest.mark.parametrize(
    ("count", "other"),
    [
        (2, {}),
        (4, {}),
        (3, {"shard_id": "2" * 20}),
        (3, {"run_id": "run-2"}),
        (3, {"label_fingerprint": "other weights"}),
    ],
)
def test_a_part_that_was_written_over_is_not_read_as_if_nothing_were(count, other):
    store, rows = MemoryStore(), label_photos()
    made = commit(store, rows[:3], "1" * 20)
    overwrite(store, made, rows[:count], **other)
    with pytest.raises(CommitError, match=r"/1{20}\.parquet' is not what was committed"):
        next(read_rows(store, OUTPUT, [made], ["item_id"]))


def test_another_attempt_s_part_of_the_same_shard_is_as_good():
    store, rows = MemoryStore(), label_photos()
    made = commit(store, rows[:3], "1" * 20)
    overwrite(store, made, [replace(row, attempts=2) for row in rows[:3]])
    assert [row.attempts for row in read_rows(store, OUTPUT, [made])] == [2, 2, 2]


def test_a_damaged_part_is_refused_by_name():
    store = MemoryStore()
    made = commit(store, label_photos(), "1" * 20)
    data = store.get(f"{OUTPUT}/{made.part}")
    store.put(f"{OUTPUT}/{made.part}", b"PAR1" + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    with pytest.raises(CommitError, match=r"1\.parquet' is damaged"):
        list(read_rows(store, OUTPUT, [made]))
    store.put(f"{OUTPUT}/{made.part}", data[:-1])
    with pytest.raises(CommitError, match=r"1\.parquet' is no Parquet file"):
        list(read_rows(store, OUTPUT, [made]))


def test_a_part_that_goes_away_while_it_is_read_is_named_too():
    class Fading(MemoryStore):
        """Parts are there when they are looked for, and not when they are read."""

        def get(self, uri, start=0, length=None):
            if uri.endswith(".parquet") and self.fading:
                raise ObjectMissing(f"there is no object {uri!r}")
            return super().get(uri, start, length)

    store = Fading()
    store.fading = False
    made = commit(store, label_photos()[:1], "1" * 20)
    store.fading = True
    with pytest.raises(CommitError, match=r"1\.parquet' is committed and is not there any more"):
        list(read_rows(store, OUTPUT, [made]))


@pytest.mark.parametrize("finished", [True, False])
def test_a_part_that_is_gone_is_named_with_the_way_out(finished):
    store, output = MemoryStore(), OUTPUT
    made = commit(store, label_photos()[:1], "1" * 20)
    if finished:
        ledger = Ledger(store, output, "run-1")
        finish_run(
            ledger,
            ["1" * 20],
            planned_at=now(),
            source="in",
            settings_digest="s",
            fingerprint="f",
        )
    store.delete(f"{output}/{made.part}")
    with pytest.raises(CommitError) as caught:
        list(read_rows(store, output, current_commits(store, output)))
    said = f"{caught.value}"
    assert f"{output}/labels/run-1/{'1' * 20}.parquet' is committed and is not there" in said
    assert f"Delete its marker '{output}/_commits/run-1/{'1' * 20}.json'" in said
    assert f"'_commits' and '_runs' under '{output}'" in said


def flip(data: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """One bit is another, as on a disk that rots; and whether it is one of the footer."""
    at = chance.randrange(len(data))
    footer = int.from_bytes(data[-8:-4], "little") + 8
    changed = bytes([data[at] ^ 1 << chance.randrange(8)])
    return data[:at] + changed + data[at + 1 :], at >= len(data) - footer


def test_a_flipped_bit_in_a_part_is_an_error_or_changes_no_row():
    """In its pages, which have checksums; a footer has none, and some of its bits are values."""
    store, chance = MemoryStore(), random.Random(7)
    made = commit(store, label_photos()[:2], "1" * 20)
    uri = f"{OUTPUT}/{made.part}"
    whole, rows = store.get(uri), list(read_rows(store, OUTPUT, [made]))
    ends = Counter()
    for _ in range(60):
        rotten, in_footer = flip(whole, chance)
        store.put(uri, rotten)
        try:
            same = list(read_rows(store, OUTPUT, [made])) == rows
        except CommitError:
            ends["refused"] += 1
        else:
            assert same or in_footer
            ends["same"] += same
    assert min(ends["refused"], ends["same"]) > 5


def test_a_part_of_an_older_version_without_checksums_is_read():
    rows = label_photos()[:2]
    table = pq.read_table(io.BytesIO(write_part(rows, IDENTITY)))
    older = io.BytesIO()
    pq.write_table(table, older)
    assert read_part(older.getvalue()) == by_item(map(rounded, rows))


@pytest.mark.parametrize("key", ["run_id", "shard_id", "label_fingerprint", "counts", "targets"])
def test_a_footer_that_lacks_a_key_is_damage(key):
    table = pq.read_table(io.BytesIO(write_part([], IDENTITY)))
    footer = {k: v for k, v in table.schema.metadata.items() if k != f"pixellm.{key}".encode()}
    lacking = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(footer), lacking)
    with pytest.raises(CommitError, match=f"the part is damaged: 'pixellm.{key}'"):
        describe_part(lacking.getvalue())


def test_a_part_with_other_columns_is_damage():
    table = pq.read_table(io.BytesIO(write_part([], IDENTITY)))
    names = [name.replace("item_id", "itfm_id") for name in table.column_names]
    other = io.BytesIO()
    renamed = table.rename_columns(names).replace_schema_metadata(table.schema.metadata)
    pq.write_table(renamed, other)
    with pytest.raises(CommitError, match="its columns are not those of a label table"):
        describe_part(other.getvalue())


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


@pytest.mark.parametrize("version", ["1", "9"])
def test_a_part_of_another_version_is_refused_with_the_way_out(version):
    table = pq.read_table(io.BytesIO(write_part([], IDENTITY)))
    buffer = io.BytesIO()
    footer = {**table.schema.metadata, b"pixellm.schema_version": version.encode()}
    pq.write_table(table.replace_schema_metadata(footer), buffer)
    told = f"version '{version}', and this program reads '2'. Read it with .*, or start the same"
    with pytest.raises(CommitError, match=told):
        describe_part(buffer.getvalue())


@pytest.mark.parametrize(
    "within", [range(7), range(0), range(2, 2), range(3, 5), range(5, 7), range(6, 7), range(1)]
)
def test_some_rows_of_a_part_are_read_by_their_numbers(within, monkeypatch):
    rows = label_photos()[:7]
    monkeypatch.setattr("workers.labels.table.ROW_GROUP_ROWS", 2)
    monkeypatch.setattr("workers.labels.table.READ_ROWS", 3)
    part = PartReader(io.BytesIO(write_part(rows, IDENTITY)), "part")
    ids = [row.item_id for row in by_item(rows)]
    read = [row.item_id for row in part.rows(("item_id",), within)]
    assert read == ids[within.start : within.stop]


def test_row_groups_without_a_wanted_row_are_not_read():
    row = label_photos()[0]
    rows = [replace(row, item_id=f"{number:064x}") for number in range(6001)]
    data = write_part(rows, IDENTITY)

    class File(io.BytesIO):
        read_bytes = 0

        def read(self, size=-1):
            found = super().read(size)
            self.read_bytes += len(found)
            return found

    file = File(data)
    part = PartReader(file, "part")
    file.read_bytes = 0
    assert [row.item_id for row in part.rows(within=range(4100, 4102))] == [
        rows[4100].item_id,
        rows[4101].item_id,
    ]
    assert file.read_bytes < 0.4 * len(data)  # one of four groups, three of them of 2000 rows
