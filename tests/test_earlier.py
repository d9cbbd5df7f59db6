from dataclasses import replace

from tests.labels import label_photos
from workers.earlier import EarlierRows, index_earlier
from workers.labels.commits import Ledger
from workers.labels.table import PartIdentity, write_part
from workers.records.instructions import make_instruction
from workers.storage.memory import MemoryStore

OUTPUT = "mem://bucket/out"
ASKED = make_instruction("what is there?")
IDENTITY = PartIdentity("run-1", "1" * 20, "f")


def commit(store, rows):
    ledger = Ledger(store, OUTPUT, "run-1")
    part = write_part(rows, IDENTITY)
    return ledger.commit("1" * 20, part, fingerprint="f", source="in", source_etag="e")[0]


def found(store, made, rows):
    earlier = EarlierRows(index_earlier(store, OUTPUT, made), store, OUTPUT)
    return [earlier.find(row.image_sha256, ASKED) for row in rows]


def test_what_was_committed_is_found_by_its_content():
    store, rows = MemoryStore(), label_photos()
    assert [row.item_id for row in found(store, [commit(store, rows)], rows)] == [
        row.item_id for row in rows
    ]
    assert found(store, [], rows) == [None] * len(rows)


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
