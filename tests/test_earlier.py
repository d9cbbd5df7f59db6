import io
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from tests.labels import label_photos
from workers.earlier import EarlierRows, index_earlier
from workers.labels.commits import Ledger
from workers.labels.table import PartIdentity, write_part
from workers.records.instructions import make_instruction
from workers.storage.memory import MemoryStore

OUTPUT = "mem://bucket/out"
ASKED = make_instruction("what is there?")
IDENTITY = PartIdentity("run-1", "1" * 20, "f")


def commit(store, rows, shard_id="1" * 20):
    ledger = Ledger(store, OUTPUT, "run-1")
    whole = isinstance(rows, bytes)
    part = rows if whole else write_part(rows, replace(IDENTITY, shard_id=shard_id))
    return ledger.commit(shard_id, part, fingerprint="f", source="in", source_etag="e")[0]


def found(store, made, rows):
    earlier = EarlierRows(index_earlier(store, OUTPUT, made), store, OUTPUT)
    return [earlier.find(row.image_sha256, ASKED) for row in rows]


def test_what_was_committed_is_found_by_its_content():
    store, rows = MemoryStore(), label_photos()
    assert [row.item_id for row in found(store, [commit(store, rows)], rows)] == [
        row.item_id for row in rows
    ]
    assert found(store, [], rows) == [None] * len(rows)


def test_labels_that_were_sorted_into_other_classes_are_not_found():
    store, (row, *_) = MemoryStore(), label_photos()
    sorted_into = replace(row, image_sha256="0" * 64, requested_classes=("cat", "dog"))
    made = [commit(store, [row, sorted_into])]
    earlier = EarlierRows(index_earlier(store, OUTPUT, made), store, OUTPUT)
    for classes in ((), ("cat", "dog"), ("dog", "cat"), ("cat",)):
        asked = replace(ASKED, classes=classes)
        assert (earlier.find(row.image_sha256, asked) is not None) == (classes == ())
        assert (earlier.find("0" * 64, asked) is not None) == (classes == ("cat", "dog"))


@pytest.mark.parametrize("status", ["failed", "rejected_input"])
def test_what_has_no_label_is_asked_again(status):
    store, (bad, *rows) = MemoryStore(), label_photos()
    made = [commit(store, [replace(bad, status=status), *rows])]
    assert [row is None for row in found(store, made, [bad, *rows])] == [True] + [False] * 7


class Watched(MemoryStore):
    """Counts what is read; may lose an object just when it was opened."""

    losing = False

    def __init__(self):
        super().__init__()
        self.got = []

    def open(self, uri):
        file = super().open(uri)
        if self.losing:
            self.delete(uri)
        return file

    def get(self, uri, start=0, length=None):
        if length is None:
            self.got.append(uri)
        return super().get(uri, start, length)


def test_the_parts_at_hand_are_few_and_those_used_last(monkeypatch):
    monkeypatch.setattr("workers.earlier.PARTS_AT_HAND", 2)
    store, rows = Watched(), label_photos()
    made = [commit(store, [row], f"{n}" * 20) for n, row in enumerate(rows[:3])]
    earlier = EarlierRows(index_earlier(store, OUTPUT, made), store, OUTPUT)
    store.got.clear()
    for n in (0, 1, 0, 2, 0, 1):
        assert earlier.find(rows[n].image_sha256, ASKED)
    assert store.got == [f"{OUTPUT}/{made[n].part}" for n in (0, 1, 2, 1)]


@pytest.mark.parametrize("when", ["before", "while", "after"])
def test_the_labels_of_a_part_that_goes_away_are_asked_again(when):
    store, rows = Watched(), label_photos()
    lost, kept = commit(store, rows[:4], "1" * 20), commit(store, rows[4:], "2" * 20)
    if when == "before":
        store.delete(f"{OUTPUT}/{lost.part}")
    store.losing = when == "while"
    index = index_earlier(store, OUTPUT, [lost] if store.losing else [lost, kept])
    store.delete(f"{OUTPUT}/{lost.part}")
    earlier = EarlierRows(index, store, OUTPUT)
    there = [earlier.find(row.image_sha256, ASKED) is not None for row in rows]
    assert there == [False] * 4 + [when != "while"] * 4


def test_a_part_that_is_damaged_where_the_index_does_not_look_is_asked_again():
    store, rows = MemoryStore(), label_photos()
    whole = write_part(rows, IDENTITY)
    footer = pq.ParquetFile(io.BytesIO(whole)).metadata
    columns = [footer.row_group(0).column(n) for n in range(footer.num_columns)]
    (text,) = (each for each in columns if each.path_in_schema == "answer_text")
    last = (text.dictionary_page_offset or text.data_page_offset) + text.total_compressed_size - 1
    made = [commit(store, whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])]
    assert len(index_earlier(store, OUTPUT, made).keys) == len(rows)
    assert found(store, made, rows) == [None] * len(rows)


def many(answer):
    """More rows than a sort keeps in order by chance; the answer tells where they come from."""
    return [
        replace(row, image_sha256=f"{number:02}{row.image_sha256[2:]}", answer_text=answer)
        for row in label_photos()[:1]
        for number in range(50)
    ]


def test_of_several_labels_of_the_same_the_first_counts():
    store, rows = MemoryStore(), many("first")
    made = [commit(store, many(each), f"{n}" * 20) for n, each in enumerate(["first", "b", "c"])]
    assert {row.answer_text for row in found(store, made, rows)} == {"first"}
    assert {row.answer_text for row in found(store, made[::-1], rows)} == {"c"}


def test_what_was_never_labelled_leads_to_no_part():
    store = MemoryStore()
    index = index_earlier(store, OUTPUT, [commit(store, label_photos())])
    keys = [int(key) for key in index.keys]
    assert [index.part_of(key) for key in keys] == list(index.parts) * len(keys)
    assert {index.part_of(near) for key in keys for near in (key - 1, key + 1)} == {None}


def test_only_labels_of_a_model_are_carried_over():
    """What a person has corrected is no answer of the model."""
    store, rows = MemoryStore(), label_photos()
    of_people = [replace(row, origin="human") for row in rows[:3]]
    made = [commit(store, [*of_people, *rows[3:]])]
    assert [row is None for row in found(store, made, rows)] == [True] * 3 + [False] * 5
    assert len(index_earlier(store, OUTPUT, made).keys) == 5


def test_a_part_that_was_written_over_is_not_carried_over():
    """Whatever is in it: its bytes are at hand, so that not even its row count need differ."""
    store, rows = MemoryStore(), label_photos()
    made = commit(store, rows)
    index = index_earlier(store, OUTPUT, [made])
    changed = [replace(row, status="empty", targets=(), n_targets=0) for row in rows]
    store.put(f"{OUTPUT}/{made.part}", write_part(changed, IDENTITY))
    earlier = EarlierRows(index, store, OUTPUT)
    assert [earlier.find(row.image_sha256, ASKED) for row in rows] == [None] * len(rows)


def test_a_part_of_another_shard_in_its_place_is_not_even_indexed():
    store, rows = MemoryStore(), label_photos()
    made = commit(store, rows)
    store.put(f"{OUTPUT}/{made.part}", write_part(rows, replace(IDENTITY, shard_id="2" * 20)))
    assert len(index_earlier(store, OUTPUT, [made]).keys) == 0
