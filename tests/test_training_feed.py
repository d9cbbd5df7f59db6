import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch

from pixellm.losses import LossWeights
from pixellm.training import training_losses
from tests.photos import load_photos
from tests.test_training_batches import assert_same
from tests.training_tables import (
    PHOTOS,
    memory_table,
    photo_rows,
    put_photos,
    put_table,
    stream_of,
    tiny,
    tiny_maker,
)
from workers.errors import ObjectMissing, SettingsError, StorageUnavailable
from workers.storage.memory import MemoryStore
from workers.storage.stores import Anywhere
from workers.training.batches import BatchMaker, MadeBatch
from workers.training.feed import AHEAD, Feed, FeedPosition
from workers.training.mixing import Mix

POOL = 3
ALL = 40  # examples: an epoch


class SlowStore(MemoryStore):
    """Takes its time for photos, the longest for the first that is asked for."""

    def __init__(self):
        super().__init__()
        self.waits = [0.2, 0.0, 0.1, 0.0, 0.0, 0.05]
        self.fetched = Counter()

    def get(self, uri, start=0, length=None):
        if uri.startswith(PHOTOS):
            self.fetched[uri] += 1
            time.sleep(self.waits.pop(0) if self.waits else 0)
        return super().get(uri, start, length)


def fill(store, rows=None, leave_out=()):
    put_photos(store, leave_out)
    put_table(store, "mem://b/out", photo_rows() if rows is None else rows)
    return store


@pytest.fixture(scope="module")
def store():
    return memory_table()


def feed_of(
    store, per_worker=2, rank=0, world=1, accumulate=2, position=None, seed=1, runs=(), **more
):
    mix = Mix([(stream_of(store, seed=seed, runs=runs), 1.0)], seed=seed)
    maker = tiny_maker(store)
    more = {"pool_batches": POOL, **more}
    return Feed(mix, maker, per_worker, rank, world, accumulate, position=position, **more)


def take(feed, count):
    batches = iter(feed)
    try:
        return list(islice(batches, count))
    finally:
        batches.close()


def talks(batch):
    """What its rows say, as lists of ids."""
    pairs = zip(batch.ids, batch.text_valid, strict=True)
    return [tuple(ids[: int(valid.sum())].tolist()) for ids, valid in pairs]


def steps_of(store, world, per_worker, accumulate, steps, position=None):
    """The rows of each global batch, those of all workers together, and the position behind it."""
    of_rank = [
        take(feed_of(store, per_worker, rank, world, accumulate, position), steps * accumulate)
        for rank in range(world)
    ]
    found = []
    for step in range(steps):
        slices = [
            each for taken in of_rank for each in taken[step * accumulate : (step + 1) * accumulate]
        ]
        rows = Counter(talk for batch, _ in slices for talk in talks(batch))
        found.append((rows, slices[-1][1]))
    assert all(taken[-1][1] == of_rank[0][-1][1] for taken in of_rank)
    return found


def test_two_feeds_of_a_seed_give_the_same_and_of_another_seed_something_else(store):
    one, same, other = (take(feed_of(store, seed=seed), 8) for seed in (1, 1, 2))
    for (batch, position), (again, state_again) in zip(one, same, strict=True):
        assert_same(batch, again)
        assert position == state_again
    assert [talks(batch) for batch, _ in one] != [talks(batch) for batch, _ in other]


def test_whoever_goes_on_behind_any_batch_sees_the_rest(store):
    """Over pools, global batches and slices, and into the next epoch."""
    whole = take(feed_of(store), 26)
    for number, (_, position) in enumerate(whole[:-3]):
        told = FeedPosition.from_json(position.to_json())
        assert told == position
        rest = take(feed_of(store, position=told), 3)
        for (batch, after), (again, after_again) in zip(
            whole[number + 1 : number + 4], rest, strict=True
        ):
            assert_same(batch, again)
            assert after == after_again


def test_every_example_comes_once_an_epoch(store):
    feed = feed_of(store, per_worker=4, accumulate=1, pool_batches=5)  # two pools are an epoch
    said = Counter(talk for batch, _ in take(feed, 10) for talk in talks(batch))
    assert said == Counter(dict.fromkeys(said, 1))
    assert len(said) == ALL


@pytest.mark.parametrize(
    ("world", "per_worker", "accumulate"), [(2, 2, 2), (4, 2, 1), (1, 8, 1), (2, 1, 4), (8, 1, 1)]
)
def test_the_global_batches_are_the_same_for_any_number_of_workers(
    store, world, per_worker, accumulate
):
    alone = steps_of(store, 1, 2, 4, 5)
    assert steps_of(store, world, per_worker, accumulate, 5) == alone
    assert all(rows.total() == 8 for rows, _ in alone)
    # and so they are when training goes on with another number of them
    goes_on = steps_of(store, world, per_worker, accumulate, 3, alone[1][1])
    assert goes_on == alone[2:]


def test_pictures_are_seen_otherwise_in_every_step(store, monkeypatch):
    """All slices of a step, on all workers, see them alike; a run that goes on, as before."""
    made = lambda self, pool, places, when: MadeBatch(when, Counter())  # noqa: E731
    monkeypatch.setattr(BatchMaker, "make", made)

    def whens(count, **more):
        return [when for when, _ in take(feed_of(store, accumulate=2, **more), count)]

    alone = whens(2 * POOL + 2, per_worker=2)
    steps = alone[::2]
    assert alone[1::2] == steps
    assert len(set(steps)) == len(steps) == POOL + 1
    for rank in (0, 1):
        assert whens(len(alone), per_worker=1, rank=rank, world=2) == alone
    (*_, (_, position)) = take(feed_of(store, per_worker=2, accumulate=2), 3)
    assert whens(len(alone) - 3, per_worker=2, position=position) == alone[3:]


def test_workers_share_no_row_of_a_step(store):
    first, second = (take(feed_of(store, 2, rank, 2, 1), 6) for rank in (0, 1))
    for (one, position), (two, other_state) in zip(first, second, strict=True):
        assert not set(talks(one)) & set(talks(two))
        assert position == other_state


def test_neither_threads_nor_a_slow_store_change_the_order(store):
    expected = take(feed_of(store), 6)
    for threads in (1, 2, 8):
        for (batch, position), (other, other_state) in zip(
            take(feed_of(fill(SlowStore()), threads=threads), 6), expected, strict=True
        ):
            assert_same(batch, other)
            assert position == other_state


def test_batches_are_made_ahead_but_not_without_end():
    slow = fill(SlowStore())
    batches = iter(feed_of(slow, per_worker=1, accumulate=1))
    next(batches)
    deadline = time.monotonic() + 10
    while slow.fetched.total() < AHEAD + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert slow.fetched.total() == AHEAD + 1
    batches.close()


def test_leaving_does_not_wait_for_batches_that_nobody_has_begun():
    slow = fill(SlowStore())
    slow.waits = [0.0] + [0.3] * 20
    batches = iter(feed_of(slow, per_worker=1, accumulate=1, threads=1))
    next(batches)
    batches.close()
    assert slow.fetched.total() <= 3  # the one that was taken, one under way, perhaps one more


def test_leaving_ends_the_threads(store):
    before = threading.active_count()
    for number, _ in enumerate(feed_of(store)):
        if number == 3:
            break
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_pictures_that_are_gone_are_replaced_alike_for_any_number_of_workers():
    names = [photo.name for photo in load_photos()]
    worse = fill(MemoryStore(), leave_out=names[:3])
    alone = steps_of(worse, 1, 8, 1, 5)
    assert steps_of(worse, 2, 2, 2, 5) == alone
    assert alone != steps_of(fill(MemoryStore()), 1, 8, 1, 5)
    feed = feed_of(worse, 8, accumulate=1, pool_batches=5)
    take(feed, 5)  # an epoch: 8 photos, 5 questions about each
    assert feed.counts == {"image_missing": 15}
    of_ranks = [feed_of(worse, 4, rank, 2, 1, pool_batches=5) for rank in (0, 1)]
    for each in of_ranks:
        take(each, 5)
    assert sum((each.counts for each in of_ranks), Counter()) == {"image_missing": 15}


def test_what_was_passed_over_is_counted_up_to_the_batch_and_once():
    rows = [replace(row, review="rejected") for row in photo_rows()[::5]] + [
        row for number, row in enumerate(photo_rows()) if number % 5
    ]
    table = memory_table(rows)
    feed = feed_of(table, 8, accumulate=1, pool_batches=4)  # 32 examples, 8 rows between them
    batches = iter(feed)
    _, position = next(batches)
    first = dict(feed.counts)
    assert set(first) == {"other_review"}
    assert first["other_review"] <= 8
    list(islice(batches, 3))
    assert feed.counts == first  # they were passed over to draw the pool
    next(batches)
    assert first["other_review"] < feed.counts["other_review"] <= 16
    batches.close()
    again = feed_of(table, 8, accumulate=1, pool_batches=4, position=position)
    take(again, 3)
    assert not again.counts


def test_a_state_of_other_data_is_refused(store):
    _, position = take(feed_of(store), 1)[0]
    with pytest.raises(
        SettingsError,
        match=r"learning from other rows: .* runs run-1, and here they are run-1\.",
    ):
        feed_of(store, position=position, seed=2)
    with pytest.raises(SettingsError, match=r"learning from other rows"):
        feed_of(memory_table(photo_rows()[:30]), position=position)


def test_a_run_that_was_finished_meanwhile_is_not_learned_from_before_the_end():
    table = fill(MemoryStore())
    whole = take(feed_of(table), 4)
    position = FeedPosition.from_json(whole[1][1].to_json())
    put_table(table, "mem://b/out", photo_rows()[:7], run_id="run-2", finish=True)
    assert position.runs == (("run-1",),)
    with pytest.raises(SettingsError, match=r"the runs run-1, and here they are run-2\."):
        feed_of(table, position=position)
    rest = take(feed_of(table, position=position, runs=position.runs[0]), 2)
    for (batch, after), (other, other_after) in zip(rest, whole[2:], strict=True):
        assert_same(batch, other)
        assert after == other_after


def test_a_state_of_other_steps_is_refused(store):
    _, position = take(feed_of(store), 1)[0]
    with pytest.raises(
        SettingsError, match=r"--output take 4 examples, .* would take 6, .* product is 4$"
    ):
        feed_of(store, per_worker=3, position=position)
    with pytest.raises(SettingsError, match=r"from pools of 3 steps; .* pools of 4"):
        feed_of(store, position=position, pool_batches=POOL + 1)


def test_in_the_middle_of_a_step_as_many_rows_must_come_at_once(store):
    _, position = take(feed_of(store, 1, accumulate=4), 1)[0]
    assert position.rows == 1
    with pytest.raises(
        SettingsError, match=r"after 1 of the 4 examples .* 2 workers .* 1 rows .*--num-workers"
    ):
        feed_of(store, 1, 0, 2, 2, position=position)
    take(feed_of(store, 1, accumulate=4, position=position), 1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pool": 1}', '{"pool": {"taken": 1}}', "null"])
def test_a_state_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match="no position in training data"):
        FeedPosition.from_json(text)


def test_trouble_of_the_store_ends_the_feed_with_its_own_error(store):
    class Troubled(MemoryStore):
        def get(self, uri, start=0, length=None):
            if uri.endswith(load_photos()[3].name):
                raise StorageUnavailable("busy")
            return super().get(uri, start, length)

    with pytest.raises(StorageUnavailable, match="busy"):
        take(feed_of(fill(Troubled())), 20)


def test_a_table_that_goes_away_ends_the_feed_with_its_own_error():
    table = fill(MemoryStore())
    batches = iter(feed_of(table, 8, accumulate=1))
    next(batches)
    for info in list(table.list("mem://b/out/labels")):
        table.delete(info.uri)
    with pytest.raises(Exception, match="is committed and is not there any more"):
        list(islice(batches, 30))
    with pytest.raises(ObjectMissing):
        table.stat(info.uri)


def test_training_that_was_interrupted_ends_with_the_same_losses(store):
    """The model takes no steps here; the losses of its batches are the same to the last digit."""

    def losses(batches):
        with torch.no_grad():
            return [
                training_losses(tiny().model, batch, LossWeights()).total.item()
                for batch, _ in batches
            ]

    whole = take(feed_of(store), 8)
    rest = take(feed_of(store, position=whole[4][1]), 3)
    assert losses(rest) == losses(whole)[5:]


def test_a_bucket_gives_the_same_batches(bucket, store):
    """Photos and table in a real bucket; only where the photos lie differs."""
    rows = [
        replace(row, image_uri=row.image_uri.replace("s3://b/", f"s3://{bucket}/"))
        for row in photo_rows()
    ]
    for photo in load_photos():
        Anywhere().put(f"s3://{bucket}/in/{photo.name}", photo.data)
    put_table(Anywhere(), f"s3://{bucket}/labels", rows)
    remote = stream_of(Anywhere(), f"s3://{bucket}/labels")
    feed = Feed(Mix([(remote, 1.0)], seed=1), tiny_maker(Anywhere()), 2, 0, 1, 2, pool_batches=POOL)
    for (batch, _), (other, _) in zip(take(feed, 12), take(feed_of(store), 12), strict=True):
        assert_same(batch, other)
