import os
import pickle
import random
import tracemalloc

import pytest

from workers.packed import BLOCK, Checklist, Packed, PackedSet
from workers.shards.kinds import ShardKind
from workers.shards.plan import Shard

COUNTS = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]


@pytest.mark.parametrize("count", COUNTS)
def test_it_reads_like_the_list_that_it_was_made_of(count):
    items = [f"item {at}" for at in range(count)]
    packed = Packed(iter(items))
    assert (len(packed), bool(packed)) == (count, count > 0)
    assert list(packed) == items
    assert list(reversed(packed)) == items[::-1]
    places = random.Random(count).choices(range(-count, count), k=50) if count else []
    assert [packed[at] for at in places] == [items[at] for at in places]
    for part in (slice(None), slice(1, -1), slice(None, None, -3), slice(BLOCK - 2, BLOCK + 2)):
        assert packed[part] == items[part]
    for beyond in (count, -count - 1):
        with pytest.raises(IndexError):
            packed[beyond]


def test_two_readers_do_not_disturb_each_other():
    packed = Packed(range(3 * BLOCK))
    pairs = list(zip(packed, packed, strict=True))
    assert pairs == [(at, at) for at in range(3 * BLOCK)]


@pytest.mark.parametrize("kind", ShardKind)
def test_a_large_plan_travels_in_little_and_comes_back_as_it_was(kind):
    rng, shards, first, offset = random.Random(0), list[Shard](), 0, 0
    for at in range(5_000):
        of_its_own = kind in (ShardKind.TAR, ShardKind.IMAGES)
        uri = f"s3://bucket/photos/{at:06}.tar" if kind is ShardKind.TAR else "s3://bucket/photos/a"
        count, length = rng.randint(40, 64), rng.randint(4_000, 9_000)
        shard = Shard(
            shard_id=f"{rng.getrandbits(80):020x}",
            kind=kind,
            uri=uri,
            source=uri,
            etag=f"{rng.getrandbits(128) if of_its_own else 7:032x}",
            size=rng.getrandbits(30) if of_its_own else 10**9,
            first=first,
            count=count,
            offset=offset,
            length=length,
        )
        shards.append(shard)
        first, offset = first + count, offset + length
    travelled = pickle.dumps(Packed(shards))
    assert len(travelled) < 70 * len(shards)
    assert list(pickle.loads(travelled)) == shards


# ---- sets ----

STRANGE = os.fsdecode(b"caf\xe9-\xff")  # the name of a file, in no encoding
TEXTS = ["", "a", "ab", "b", "é", "日本", "\U0001f600", STRANGE, "x" * 300]


@pytest.mark.parametrize("count", COUNTS)
def test_a_packed_set_is_the_set_that_it_was_made_of(count):
    ids = [f"{random.Random(at).getrandbits(80):020x}" for at in range(count)]
    packed = PackedSet(iter(ids + ids[: count // 2]))
    assert (len(packed), bool(packed)) == (count, count > 0)
    assert list(packed) == sorted(ids)
    assert packed == set(ids)
    assert all(each in packed for each in ids)
    assert not any(each in packed for each in ("", "0", "f" * 21, *(each[:-1] for each in ids)))
    assert [packed.place(each) for each in sorted(ids)] == list(range(count))


def test_a_packed_set_takes_any_name_of_a_file_and_nothing_else_for_one():
    packed = PackedSet(TEXTS)
    assert set(packed) == set(TEXTS)
    assert list(packed) == sorted(TEXTS, key=os.fsencode)
    assert all(each in packed for each in TEXTS)
    assert not any(
        each in packed for each in ("c", "caf", "x" * 299, "x" * 301, "日", "\ud800", None, 3, b"a")
    )


def test_packed_sets_are_reckoned_with_like_sets():
    one, other = {"a", "b", "c" * 50}, {"b", "d"}
    for left in (PackedSet(one), one):
        for right in (PackedSet(other), other):
            assert left & right == {"b"}
            assert left - right == {"a", "c" * 50}
            assert left | right == {"a", "b", "c" * 50, "d"}
    assert PackedSet() == set()
    assert not PackedSet() & PackedSet(one)


def test_a_packed_set_of_ids_takes_no_more_than_their_letters():
    count, rng = 20_000, random.Random(0)
    tracemalloc.start()
    try:
        packed = PackedSet(f"{rng.getrandbits(80):020x}" for _ in range(count))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(packed) == count
    assert held < 25 * count


def test_what_is_crossed_off_is_so_once():
    checklist = Checklist(iter("cab"))
    assert (len(checklist), list(checklist.crossed_off)) == (3, [])
    assert [checklist.cross_off(each) for each in ("c", "x", "c", "a")] == [
        True,
        False,
        False,
        True,
    ]
    assert (len(checklist), list(checklist.crossed_off)) == (1, ["a", "c"])
    assert checklist.cross_off("b")
    assert not checklist
