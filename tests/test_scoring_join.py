import io
from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from tests.scoring import box, failed, put_table, row
from workers.errors import AccessDenied, CommitError, ScoringError
from workers.scoring import join
from workers.scoring.evaluation import _sweep, evaluate_tables
from workers.scoring.join import (
    NO_GOLD,
    Plan,
    count_buckets,
    cut_pieces,
    read_bucket,
    split_piece,
    unite_keys,
)
from workers.scoring.sums import ALL
from workers.storage.memory import MemoryStore
from workers.storage.stores import open_store

SCRATCH = "mem://join/scratch"
STORE = open_store("mem://join")
SQUARE = [box(0, 0, 4, 4)]


@pytest.fixture(autouse=True)
def clean():
    yield
    for info in list(STORE.list("mem://join")):
        STORE.delete(info.uri)


def answers(count, start=0, images=7, **more):
    return [
        row(SQUARE, text=f"{n}", image=f"picture {n % images}", **more)
        for n in range(start, start + count)
    ]


def joined(gold, said, buckets=1):
    """Pairs of item ids by bucket, and what is told; the tables are lists of parts."""
    tables = [put_table(STORE, f"mem://join/{n}", *parts) for n, parts in enumerate((gold, said))]
    plan, told = Plan(SCRATCH, buckets, None), Counter()
    true = [split_piece(piece, plan) for piece in cut_pieces(tables[0], "gold")]
    plan = replace(plan, wanted=unite_keys(true))
    pieces = [*true, *(split_piece(piece, plan) for piece in cut_pieces(tables[1], "predicted"))]
    for piece in pieces:
        told.update(piece.told)
    blocks = [block for piece in pieces for block in piece.blocks]
    return [list(read_bucket(blocks, bucket, told)) for bucket in range(buckets)], told


def ids(pairs):
    return {gold.item_id: said and said.item_id for gold, said in pairs}


def test_rows_of_the_same_image_and_instruction_find_each_other_across_parts():
    rows = answers(30)
    gold, said = [rows[:10], rows[10:]], [rows[20:], rows[5:20], rows[:5]]
    (pairs,), told = joined(gold, said)
    assert ids(pairs) == {each.item_id: each.item_id for each in rows}
    assert not +told


def test_ids_of_another_program_may_be_any_text():
    rows = [replace(row, item_id=f"my row {n} é") for n, row in enumerate(answers(6))]
    (pairs,), _ = joined([rows], [rows[::-1]])
    assert ids(pairs) == {each.item_id: each.item_id for each in rows}


@pytest.mark.parametrize("buckets", [2, 5])
def test_every_item_is_in_one_bucket_with_all_others_of_its_image(buckets):
    rows = answers(60)
    found, _ = joined([rows], [rows[30:], rows[:30]], buckets)
    assert sum(map(len, found)) == 60
    where = [{gold.image for gold, _ in pairs} for pairs in found]
    assert sum(map(len, where)) == len(set().union(*where)) == 7
    assert ids(pair for pairs in found for pair in pairs) == {
        each.item_id: each.item_id for each in rows
    }


def test_what_is_missing_on_one_side_is_counted():
    (pairs,), told = joined([answers(3)], [answers(1), answers(4, start=100)])
    assert [said is not None for _, said in pairs].count(True) == 1
    assert +told == {"gold rows without a predicted one: nothing was predicted": 2, NO_GOLD: 4}


def test_rows_without_an_answer_are_told_by_their_side():
    (pairs,), told = joined([[row(text="1"), failed(text="2")]], [[failed(text="1")]])
    ((_, said),) = pairs
    assert said is not None
    assert not said.answered
    assert +told == {
        "gold rows without an answer": 1,
        "gold rows whose predicted one has no answer: nothing was predicted": 1,
    }


def broken_off():
    """Before anything was named, with regions to ignore alone, and behind the first target."""
    yield replace(row(text="1", truncated=True), answer_text="The mug is")
    yield row(text="2", ignored=SQUARE, truncated=True)
    yield row(SQUARE, text="3", truncated=True)


def test_what_broke_off_before_its_first_target_predicts_nothing():
    gold, said = [row(SQUARE, text=text) for text in ("1", "2", "3")], [*broken_off()]
    (pairs,), told = joined([gold], [said])
    assert [each.item_id for _, each in pairs if each.answered] == [said[-1].item_id]
    assert +told == {"gold rows whose predicted one has no answer: nothing was predicted": 2}


def test_what_broke_off_before_its_first_target_is_not_scored_as_nothing():
    rows = [*broken_off()]
    (pairs,), told = joined([rows], [rows])
    assert ids(pairs) == {rows[-1].item_id: rows[-1].item_id}
    assert +told == {"gold rows without an answer": 2, NO_GOLD: 2}


def test_of_rows_that_repeat_another_the_first_with_an_answer_counts():
    first, second = row(SQUARE, ["first"]), row(SQUARE, ["second"])
    (((gold, said),),), told = joined([[first], [second]], [[failed()], [second], [first]])
    assert gold.targets[0].name == "first"
    assert said.targets[0].name == "second"
    assert +told == {"gold rows that repeat another": 1, "predicted rows that repeat another": 2}


def test_of_a_part_without_any_gold_item_the_masks_are_not_read():
    gold = [row(SQUARE, text="1"), row(SQUARE, text="2")]
    strange = put_table(STORE, "mem://join/strange", answers(400, start=100))
    spoil_masks(f"mem://join/strange/{strange.parts[0].part}")
    assert split(strange, gold).told == {NO_GOLD: 400}
    assert split(strange, gold).blocks == ()
    known = put_table(STORE, "mem://join/known", [*answers(399, start=100), gold[1]])
    spoil_masks(f"mem://join/known/{known.parts[0].part}")
    with pytest.raises(CommitError, match="is damaged"):
        split(known, gold)


def split(table, gold):
    """The only piece of a predicted table, beside these gold rows."""
    true = put_table(STORE, "mem://join/gold", gold)
    plan = Plan(SCRATCH, 1, None)
    keys = unite_keys(split_piece(piece, plan) for piece in cut_pieces(true, "gold"))
    (piece,) = cut_pieces(table, "predicted")
    return split_piece(piece, replace(plan, wanted=keys))


def spoil_masks(uri):
    """Flips bits where the run lengths of a part stand."""
    data = bytearray(STORE.get(uri))
    group = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    (masks,) = [each for each in columns if each.path_in_schema.endswith("rle_counts")]
    data[masks.data_page_offset + masks.total_compressed_size - 3] ^= 0xFF  # behind its header
    STORE.put(uri, bytes(data))


def test_pieces_hold_whole_parts_of_some_number_of_rows(monkeypatch):
    monkeypatch.setattr(join, "BLOCK_ROWS", 10)
    table = put_table(STORE, "mem://join/t", answers(4), answers(5), answers(3), answers(25))
    pieces = cut_pieces(table, "gold")
    assert [[part.rows for part in piece.parts] for piece in pieces] == [[4, 5], [3], [25]]
    assert [piece.number for piece in pieces] == [0, 1, 2]
    assert count_buckets(table) == 4
    blocks = split_piece(pieces[2], Plan(SCRATCH, 2, None)).blocks
    # a large part is set aside bit by bit
    assert len(blocks) == len({block.uri for block in blocks}) == 3
    assert count_buckets(replace(table, parts=[])) == 1
    assert cut_pieces(replace(table, parts=[]), "gold") == []


def test_however_many_buckets_and_pieces_there_are_the_scores_are_the_same(monkeypatch):
    rows = answers(40)
    said = [
        row([box(0, 0, 4, 3)], scores=[n / 64], text=f"{n}", image=f"picture {n % 7}")
        if n % 3
        else replace(each, targets=(), status="empty")
        for n, each in enumerate(rows)
    ]
    tables = [
        put_table(STORE, f"mem://join/{name}", *(some[n::4] for n in range(4)))
        for name, some in (("gold", rows), ("said", said))
    ]
    whole = evaluate_tables(*tables, SCRATCH)
    monkeypatch.setattr(join, "BLOCK_ROWS", 6)
    assert count_buckets(tables[0]) == 7
    parts = evaluate_tables(*tables, SCRATCH)
    assert parts.told == whole.told
    assert parts.scores[ALL] == pytest.approx(whole.scores[ALL])
    assert whole.scores[ALL]["giou"] > 0.1


def test_a_long_evaluation_says_ten_times_how_far_it_is(monkeypatch):
    monkeypatch.setattr(join, "BLOCK_ROWS", 1)
    rows, told = answers(25), []
    gold = put_table(STORE, "mem://join/gold", rows)
    evaluate_tables(gold, gold, SCRATCH, say=told.append)
    assert len(told) == 3 + 10
    assert told[2:4] == ["scoring 25 buckets of questions", "3 of 25 buckets are scored"]
    assert told[-1] == "25 of 25 buckets are scored"


def test_what_was_set_aside_is_swept_away_even_when_it_breaks_off():
    rows = answers(3)
    gold, said = (put_table(STORE, f"mem://join/{name}", rows) for name in ("gold", "said"))
    STORE.delete(f"mem://join/said/{said.parts[0].part}")
    with pytest.raises(CommitError, match="is committed and is not there any more"):
        evaluate_tables(gold, said, SCRATCH)
    assert list(STORE.list(SCRATCH)) == []


def test_what_may_not_be_deleted_is_left_and_told():
    class Keeping(MemoryStore):
        def delete(self, uri):
            raise AccessDenied("you may not delete here")

    store, told = Keeping(), []
    store.put(f"{SCRATCH}/gold-000000-000", b"x")
    _sweep(store, SCRATCH, told.append)
    assert told == [
        f"what was set aside under '{SCRATCH}' is left there: you may not delete here",
    ]


def test_a_gold_table_without_an_answer_is_refused():
    gold = put_table(STORE, "mem://join/gold", [failed()])
    with pytest.raises(ScoringError, match="no row of the gold table can be compared"):
        evaluate_tables(gold, gold, SCRATCH)


def test_rows_with_broken_masks_are_counted_and_end_nothing():
    rows = answers(4)
    broken = [
        replace(each, targets=tuple(replace(t, rle_counts="0") for t in each.targets))
        for each in rows
    ]
    large = row([box(0, 0, 4, 4, side=12)], text="0", image="picture 0")
    gold = put_table(STORE, "mem://join/gold", [*rows[:3], broken[3]])
    said = put_table(STORE, "mem://join/said", [large, broken[1], rows[2], rows[3]])
    found = evaluate_tables(gold, said, SCRATCH)
    assert found.told == {
        "gold rows with a broken mask": 1,
        "predicted rows with a broken mask": 1,
        "predicted rows with masks of another size than the gold ones": 1,
    }
    assert (found.sums[ALL].questions, found.sums[ALL].answered) == (3, 1)
