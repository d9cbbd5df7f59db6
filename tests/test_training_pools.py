from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from tests.training_tables import memory_table, photo_rows, stream_of, tiny_maker
from workers.errors import SettingsError
from workers.training.mixing import Mix
from workers.training.pools import group_by_length

ALL = 40
WORDS = ("a dog", "what is it?", "which of these things here can fly?", "the cat")


def rows_of_many_lengths():
    return [
        replace(row, instruction=WORDS[n % 4] * (1 + n % 3)) for n, row in enumerate(photo_rows())
    ]


def pools_of(store, start=None, batch_rows=4, pool_batches=3, max_ids=400, seed=1):
    mix = Mix([(stream_of(store), 1)], seed=seed)
    encode = tiny_maker(store, max_ids).encode
    return group_by_length(
        mix, start or mix.start, encode, batch_rows=batch_rows, pool_batches=pool_batches
    )


@pytest.fixture(scope="module")
def store():
    return memory_table(rows_of_many_lengths())


def lengths(pool):
    return [len(row.ids.ids) for row in pool.rows]


def test_rows_of_a_pool_are_sorted_by_length_and_its_batches_hold_each_once(store):
    for pool in islice(pools_of(store), 5):
        assert len(pool.rows) == 12
        assert lengths(pool) == sorted(lengths(pool))
        assert len(set(lengths(pool))) > 3
        assert sorted(at for batch in pool.batches for at in batch) == list(range(12))
        assert all(len(batch) == 4 for batch in pool.batches)


def test_batches_do_not_always_come_from_short_to_long(store):
    one, same, other = (
        [[batch.start for batch in pool.batches] for pool in islice(pools_of(store, seed=seed), 12)]
        for seed in (1, 1, 2)
    )
    assert len({tuple(order) for order in one}) > 3
    assert one == same != other


def test_pools_hold_the_examples_of_the_mix_in_turn(store):
    mix = Mix([(stream_of(store), 1)], seed=1)
    drawn = [each.example.item_id for each in islice(mix, 36)]
    for number, pool in enumerate(islice(pools_of(store), 3)):
        own = [row.example.item_id for row in pool.rows]
        assert sorted(own) == sorted(drawn[12 * number : 12 * number + 12])


def test_a_pool_is_drawn_again_from_where_it_began(store):
    whole = list(islice(pools_of(store), 4))
    for number, pool in enumerate(whole):
        again = next(pools_of(store, pool.start))
        assert [row.example.item_id for row in again.rows] == [
            row.example.item_id for row in pool.rows
        ]
        assert (again.batches, again.stop) == (pool.batches, pool.stop)
        assert number == 3 or pool.stop == whole[number + 1].start


def test_what_the_model_cannot_read_is_replaced_and_counted(store):
    limit = sorted(lengths(next(pools_of(store, batch_rows=40, pool_batches=1))))[20]
    pools = list(islice(pools_of(store, max_ids=limit), 10))
    assert all(max(lengths(pool)) <= limit for pool in pools)
    assert all(len(pool.rows) == 12 for pool in pools)
    skipped = sum((pool.skipped for pool in pools), Counter())
    assert set(skipped) == {"too_long"}
    assert skipped.total() == pools[-1].stop.taken - 120


def test_a_pool_may_have_had_more_refusals_than_the_table_has_rows(store):
    limit = sorted(lengths(next(pools_of(store, batch_rows=40, pool_batches=1))))[20]
    pool = next(pools_of(store, batch_rows=40, pool_batches=3, max_ids=limit))
    assert pool.skipped.total() > ALL
    assert len(pool.rows) == 120


def test_rows_that_were_passed_over_are_counted_once():
    rows = rows_of_many_lengths()
    rows[::5] = [replace(row, status="partial") for row in rows[::5]]
    pools = list(islice(pools_of(memory_table(rows), batch_rows=8, pool_batches=4), 4))
    counted = sum((pool.skipped for pool in pools), Counter())
    last = pools[-1].stop.streams[0]
    gone_by = len(rows) * last.epoch + last.taken
    assert counted == {"no_label": gone_by - 4 * 32}
    assert 3 * 8 <= counted.total() <= 4 * 8


def test_data_of_which_the_model_can_read_nothing_is_refused(store):
    with pytest.raises(SettingsError, match=r"40 in a row were refused, .*: too_long"):
        next(pools_of(store, max_ids=3))
