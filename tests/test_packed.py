import pickle
import random

import pytest

from workers.packed import BLOCK, Packed
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
