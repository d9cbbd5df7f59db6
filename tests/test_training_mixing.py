import json
from collections import Counter
from dataclasses import asdict, replace
from itertools import islice
from math import inf, nan

import pytest

from tests.training_tables import memory_table, photo_rows, put_table, stream_of
from workers.errors import SettingsError
from workers.training.mixing import Mix, MixPosition
from workers.training.reading import Position

LARGE, SMALL = "mem://b/large", "mem://b/small"


@pytest.fixture(scope="module")
def store():
    store = memory_table(photo_rows()[:30], LARGE)
    put_table(store, SMALL, photo_rows()[30:36])
    return store


def mix_of(store, weights=(3, 1), seed=1):
    streams = (stream_of(store, LARGE), stream_of(store, SMALL))
    return Mix(list(zip(streams, weights, strict=True)), seed=seed)


def items(drawn):
    return [each.example.item_id for each in drawn]


def test_examples_come_in_the_proportion_of_the_weights_whatever_the_sizes(store):
    mix, same = mix_of(store, (3, 1)), mix_of(store, (0.75, 0.25))
    owners = [mix.owner(number) for number in range(4000)]
    assert owners.count(0) == pytest.approx(3000, abs=110)  # 27 is a standard deviation
    assert owners == [same.owner(number) for number in range(4000)]


def test_each_data_set_is_read_in_its_own_order(store):
    mix = mix_of(store)
    drawn = items(islice(mix.read(mix.start), 60))
    for number, prefix in enumerate((LARGE, SMALL)):
        own = [item for at, item in enumerate(drawn) if mix.owner(at) == number]
        stream = stream_of(store, prefix)
        assert own == [example.item_id for example, _ in islice(stream, len(own))]


def test_which_data_set_gives_an_example_is_decided_by_seed_and_number_alone(store):
    one, other = mix_of(store, seed=1), mix_of(store, seed=2)
    owners = [[mix.owner(number) for number in range(50)] for mix in (one, other)]
    assert owners[0] != owners[1]
    assert owners[0] == [mix_of(store, seed=1).owner(number) for number in range(50)]


def test_a_mix_goes_on_from_every_position(store):
    mix = mix_of(store)
    whole = list(islice(mix.read(mix.start), 50))
    for number, each in enumerate(whole[:40]):
        told = json.loads(json.dumps(asdict(each.after)))
        places = tuple(Position(**place) for place in told["streams"])
        rest = mix_of(store).read(MixPosition(told["taken"], places))
        assert items(islice(rest, 10)) == items(whole[number + 1 : number + 11])


def test_what_is_passed_over_in_one_data_set_moves_nothing_in_the_other(store):
    bad = [replace(row, review="rejected") for row in photo_rows()[30:33]]
    worse = memory_table(photo_rows()[:30], LARGE)
    put_table(worse, SMALL, [*bad, *photo_rows()[33:36]])
    good, other = (list(islice(mix_of(each), 80)) for each in (store, worse))
    mix = mix_of(store)
    for number, (one, two) in enumerate(zip(good, other, strict=True)):
        assert mix.owner(number) == 1 or one.example.item_id == two.example.item_id
    skipped = sum((each.skipped for each in other), Counter())
    epochs = other[-1].after.streams[1].epoch
    assert set(skipped) == {"other_review"}
    assert 3 * epochs <= skipped.total() <= 3 * (epochs + 1)
    assert epochs >= 4  # of the 80 some 20, of 3 an epoch


@pytest.mark.parametrize("weight", [0, -1, nan, inf])
def test_a_weight_that_is_no_number_above_0_is_refused(store, weight):
    with pytest.raises(SettingsError, match=r"'mem://b/small' is .*; it must be above 0"):
        mix_of(store, (1, weight))


def test_a_mix_of_nothing_is_refused():
    with pytest.raises(SettingsError, match="name a label table with --data"):
        Mix([], seed=1)


def test_a_digest_tells_mixes_apart(store):
    digests = [
        mix_of(store).digest,
        mix_of(store, (1, 1)).digest,
        mix_of(store, seed=2).digest,
        Mix([(stream_of(store, LARGE), 3)], seed=1).digest,
    ]
    assert len(set(digests)) == 4
    assert mix_of(store).digest == digests[0]
