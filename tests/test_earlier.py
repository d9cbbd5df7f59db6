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


def commit(store, rows, shard_id="1" * 20):
    ledger = Ledger(store, OUTPUT, "run-1")
    part = write_part(rows, replace(IDENTITY, shard_id=shard_id))
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
