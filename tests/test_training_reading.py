import json
import tracemalloc
from collections import Counter
from dataclasses import asdict, replace
from itertools import islice

import pytest

from tests.training_tables import memory_table, photo_rows, put_table, stream_of
from workers.errors import CommitError, SettingsError
from workers.labels.manifests import current_commits
from workers.labels.table import ROW_GROUP_ROWS
from workers.storage.memory import MemoryStore
from workers.storage.stores import Anywhere
from workers.training.examples import Skipped, Split, TrainOn
from workers.training.reading import ExampleStream, Position
from workers.training.windows import Block, cut_blocks

ROWS = len(photo_rows())


class CountingStore(MemoryStore):
    """Knows which objects were opened."""

    def __init__(self):
        super().__init__()
        self.opened = []

    def open(self, uri):
        self.opened.append(uri)
        return super().open(uri)


@pytest.fixture(scope="module")
def store():
    return memory_table()


def items(stream, count, position=None):
    read = stream.read(position or Position())
    return [example.item_id for example, _ in islice(read, count)]


def test_every_row_comes_once_an_epoch_and_in_another_order_each_time(store):
    seen = items(stream_of(store), 3 * ROWS)
    epochs = [seen[:ROWS], seen[ROWS : 2 * ROWS], seen[2 * ROWS :]]
    for epoch in epochs:
        assert sorted(epoch) == sorted(row.item_id for row in photo_rows())
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_two_readers_of_a_seed_see_the_same_and_of_another_seed_something_else(store):
    one, same, other = (items(stream_of(store, seed=seed), ROWS) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("window_rows", [1, 7, 10, ROWS, 1000])
def test_whoever_reads_on_from_a_position_sees_the_rest(store, window_rows):
    stream = stream_of(store, window_rows=window_rows)
    whole = list(islice(stream.read(Position()), 2 * ROWS + 3))
    seen = [example.item_id for example, _ in whole]
    for number, (_, position) in enumerate(whole):
        told = Position(**json.loads(json.dumps(asdict(position))))
        assert items(stream, 5, told) == seen[number + 1 : number + 6] or number > 2 * ROWS - 3


def test_rows_of_all_parts_are_mixed_but_only_within_a_window():
    store, parts = memory_table(photo_rows()[:36]), {}
    stream = stream_of(store, window_rows=12)
    for part, start in enumerate(range(0, 36, 6)):
        parts |= {row.item_id: part for row in photo_rows()[start : start + 6]}
    order = [parts[item] for item in items(stream, 36)]
    windows = [order[start : start + 12] for start in range(0, 36, 12)]
    assert [len(set(window)) for window in windows] == [2, 2, 2]
    assert any(window != sorted(window) for window in windows)
    assert order != sorted(order)


def test_rows_of_a_window_are_shuffled_anew_in_each_epoch_and_in_each_window():
    """One block is all that there is, or one window is; so no other order is in play."""
    one = stream_of(memory_table(photo_rows()[:12], rows_per_part=12))
    seen = items(one, 36)
    assert len({tuple(seen[start : start + 12]) for start in (0, 12, 24)}) == 3
    store = memory_table(photo_rows()[:36], rows_per_part=12)
    places = {}
    for start in (0, 12, 24):
        part = sorted(row.item_id for row in photo_rows()[start : start + 12])
        places |= {item: place for place, item in enumerate(part)}
    order = [places[item] for item in items(stream_of(store, window_rows=12), 36)]
    assert len({tuple(order[start : start + 12]) for start in (0, 12, 24)}) == 3


def test_reading_on_opens_only_the_parts_of_the_window():
    counting = CountingStore()
    put_table(counting, "mem://b/out", photo_rows()[:36])
    stream = stream_of(counting, window_rows=12)
    counting.opened.clear()
    next(stream.read(Position(3, 25)))
    assert len(counting.opened) == 2
    assert len(set(counting.opened)) == 2


def test_a_position_at_the_end_of_a_window_is_the_beginning_of_the_next():
    counting = CountingStore()
    put_table(counting, "mem://b/out", photo_rows()[:36])
    stream = stream_of(counting, window_rows=12)
    expected = items(stream, 13)[12]
    counting.opened.clear()
    assert items(stream, 1, Position(0, 12)) == [expected]
    assert len(counting.opened) == 2
    assert items(stream, 1, Position(0, 36)) == items(stream, 1, Position(1, 0))


def test_row_groups_of_a_large_part_are_read_by_themselves():
    rows = [
        replace(photo_rows()[0], item_id=f"{number:064x}") for number in range(ROW_GROUP_ROWS + 5)
    ]
    store = MemoryStore()
    put_table(store, "mem://b/out", rows, rows_per_part=len(rows))
    (commit,) = current_commits(store, "mem://b/out")
    assert cut_blocks([commit]) == [
        Block(0, range(ROW_GROUP_ROWS)),
        Block(0, range(ROW_GROUP_ROWS, ROW_GROUP_ROWS + 5)),
    ]
    seen = items(stream_of(store, window_rows=5), len(rows))
    assert sorted(seen) == [row.item_id for row in rows]


def test_rows_that_are_passed_over_are_told_with_their_reason_and_counted_as_taken():
    bad = [replace(row, review="rejected") for row in photo_rows()[::4]]
    partial = [replace(row, status="partial") for row in photo_rows()[1::4]]
    good = [row for n, row in enumerate(photo_rows()) if n % 4 > 1]
    store = memory_table([*bad, *good, *partial])
    read = list(islice(stream_of(store).rows_from(Position()), ROWS))
    reasons = Counter(each.reason for each, _ in read if isinstance(each, Skipped))
    assert reasons == {"other_review": 10, "no_label": 10}
    assert [position.taken for _, position in read] == list(range(1, ROWS + 1))
    assert sorted(items(stream_of(store), 20)) == sorted(row.item_id for row in good)


def test_a_table_without_anything_to_learn_says_so_and_why():
    bad = [replace(row, review="rejected") for row in photo_rows()]
    store = memory_table([*bad[:-1], replace(bad[-1], status="partial")])
    with pytest.raises(SettingsError, match=r"'mem://b/out'.* of 40 rows .*39 other_review, 1 no"):
        next(stream_of(store).read(Position(0, 17)))
    with pytest.raises(SettingsError, match=r"its table is empty"):
        stream_of(memory_table([], rows_per_part=1, finish=True))
    with pytest.raises(CommitError, match="nothing has been committed"):
        stream_of(MemoryStore())


def test_the_sides_of_a_split_make_up_the_table_and_share_no_image(store):
    of_side = {}
    for side in ("train", "held_out"):
        stream = stream_of(store, split=Split(side, 0.4))
        read = [each for each, _ in islice(stream.rows_from(Position()), ROWS)]
        of_side[side] = [each for each in read if not isinstance(each, Skipped)]
    images = {side: {each.image_sha256 for each in read} for side, read in of_side.items()}
    assert len(of_side["train"]) + len(of_side["held_out"]) == ROWS
    assert images["train"]
    assert images["held_out"]
    assert not images["train"] & images["held_out"]


def test_what_counts_now_is_read_or_the_runs_that_are_named():
    store = memory_table(photo_rows()[:10], finish=True)
    put_table(store, "mem://b/out", photo_rows()[10:15], run_id="run-2", finish=True)
    assert stream_of(store).rows == 5
    assert stream_of(store).runs == ("run-2",)
    both = stream_of(store, runs=("run-1", "run-2"))
    assert both.rows == 15
    assert both.runs == ("run-1", "run-2")
    assert sorted(items(both, 15)) == sorted(row.item_id for row in photo_rows()[:15])


def test_a_digest_tells_apart_whatever_decides_the_order(store):
    same = stream_of(store).digest
    assert stream_of(store).digest == same
    others = [
        stream_of(store, seed=2),
        stream_of(store, window_rows=11),
        stream_of(store, train_on=TrainOn(min_score=0.1)),
        stream_of(store, split=Split("train")),
        stream_of(memory_table(photo_rows()[1:])),
    ]
    assert len({same, *(other.digest for other in others)}) == 6
    moved = memory_table(output="mem://c/elsewhere")
    assert stream_of(moved, "mem://c/elsewhere").digest == same


def test_a_damaged_part_is_an_error_that_names_it():
    store = memory_table()
    broken = "mem://b/out/labels/run-1/00000000000000000012.parquet"
    data = bytearray(store.get(broken))
    data[len(data) // 4] ^= 255
    store.put(broken, bytes(data))
    with pytest.raises(CommitError, match=r"00000000000000000012\.parquet.* is damaged"):
        items(stream_of(store), ROWS)


def test_a_table_in_a_local_folder_is_read_alike(tmp_path, store):
    put_table(Anywhere(), str(tmp_path / "labels"), photo_rows())
    local = ExampleStream(Anywhere(), str(tmp_path / "labels"), seed=1, window_rows=10)
    assert items(local, ROWS + 7) == items(stream_of(store), ROWS + 7)


def test_a_table_in_a_bucket_is_read_alike(bucket, store):
    put_table(Anywhere(), f"s3://{bucket}/labels", photo_rows())
    remote = stream_of(Anywhere(), f"s3://{bucket}/labels")
    assert items(remote, ROWS + 7) == items(stream_of(store), ROWS + 7)
    assert items(remote, 3, Position(1, 20)) == items(stream_of(store), 3, Position(1, 20))


def test_no_more_than_a_window_is_in_memory():
    rows = [replace(photo_rows()[0], item_id=f"{number:064x}") for number in range(2000)]
    store = MemoryStore()
    put_table(store, "mem://b/out", rows, rows_per_part=100)
    peaks = []
    for window_rows in (100, 2000):
        read = stream_of(store, window_rows=window_rows).read(Position())
        tracemalloc.start()
        for _ in range(2000):
            next(read)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 0.25 * peaks[1]
