import math
import re
from dataclasses import replace

import pytest

from tests.test_report import make_run
from workers.piloting.estimate import Estimate, compare, count_records, describe_estimate
from workers.piloting.rates import Range
from workers.shards.kinds import ShardKind
from workers.shards.plan import Shard
from workers.storage.memory import MemoryStore

OUT = "mem://b/out"


def shard(name: str, count: int, size: int = 100) -> Shard:
    return Shard(name, ShardKind.TAR, "u", "u", "e", size, count=count)


ESTIMATE = Estimate(
    run_id="label-1",
    records=Range(10_000, 10_000, 10_000),
    left=Range(7_200, 7_200, 7_200),
    rate=Range(0.5, 1.0, 2.0),
    start_seconds=0.0,
    replicas=4,
    gpus=1.0,
    cpus=8,
)


def test_hours_are_those_of_all_replicas_together():
    assert ESTIMATE.hours == Range(0.25, 0.5, 1.0)
    later = replace(ESTIMATE, start_seconds=360.0)
    assert later.hours == Range(0.35, 0.6, 1.1)


def test_the_table_says_what_it_takes_and_what_it_costs():
    text = describe_estimate(ESTIMATE, gpu_price=2.5, cpu_price=0.125)
    assert "records    10,000, 7,200 of them left" in text
    assert "rate       1.00 (0.50 to 2.00) records/s of one replica" in text
    assert "time left  30 min 00 s (15 min 00 s to 1 h 00 min)" in text
    assert "GPU hours  2.00 (1.00 to 4.00)" in text
    assert "CPU hours  16.00 (8.00 to 32.00)" in text
    assert "money      7.00 (3.50 to 14.00)" in text  # 2 x 2.5 + 16 x 0.125


def test_the_time_that_was_planned_stands_in_the_plan_as_in_the_comparison_at_the_end():
    later = replace(ESTIMATE, start_seconds=360.0)
    text = describe_estimate(later, None, None)
    assert "start      6 min 00 s, until a replica is ready" in text
    assert "time left  36 min 00 s (21 min 00 s to 1 h 06 min), start and labelling" in text
    (labelling,) = re.findall("labelling  (.*)", text)
    assert labelling == "30 min 00 s (15 min 00 s to 1 h 00 min)"
    made = make_run(records=7_200, replicas=4, records_per_second=4.0)
    assert f"planned: {labelling};" in compare(later, made)


def test_without_a_price_no_money_is_named():
    assert "money" not in describe_estimate(ESTIMATE, None, None)
    assert "GPU" not in describe_estimate(replace(ESTIMATE, gpus=0.0), None, None)


def test_an_estimate_waits_in_the_output_for_the_end_of_the_run():
    store = MemoryStore()
    assert Estimate.load(store, OUT, "label-1") is None
    ESTIMATE.save(store, OUT)
    assert Estimate.load(store, OUT, "label-1") == ESTIMATE
    store.put(f"{OUT}/_plans/label-1.estimate.json", b"{}")
    assert Estimate.load(store, OUT, "label-1") is None


@pytest.mark.parametrize(
    ("pace", "where"), [(4.0, ", as the pilot"), (8.4, ", not as the"), (1.9, ", not as the")]
)
def test_a_run_is_held_against_its_plan(pace, where):
    run = make_run(records=100, replicas=4, records_per_second=pace)
    assert where in compare(ESTIMATE, run)
    assert f"{pace / 4:,.2f} records/s of one replica" in compare(ESTIMATE, run)


def test_a_run_is_held_against_the_time_and_the_gpu_hours_that_were_planned():
    said = compare(ESTIMATE, make_run(records=14_400, replicas=4, records_per_second=8.0))
    assert "labelling 14,400 records took 30 min 00 s from when a replica was ready" in said
    assert "; planned: 1 h 00 min (30 min 00 s to 2 h 00 min)" in said
    assert "2.00 GPU hours of it; planned: 4.00 (2.00 to 8.00)" in said


def test_a_price_of_gpus_that_nobody_uses_is_said_to_be_that():
    said = describe_estimate(replace(ESTIMATE, gpus=0.0), 2.5, None)
    assert "none for GPUs: the replicas have none" in said


def test_a_run_that_found_nothing_to_do_is_held_against_nothing():
    assert compare(ESTIMATE, make_run()) == ""


def test_records_are_those_of_the_plan_where_it_knows_them():
    assert count_records([shard("a", 3), shard("b", 4)], []) == Range(7, 7, 7)


def test_files_that_nobody_has_counted_are_estimated_by_their_bytes():
    shards = [shard("a", 5), shard("b", -1, 1000), shard("c", -1, 3000)]
    read = [(shard("x", -1, 100), 10), (shard("y", -1, 200), 20), (shards[0], 5)]
    found = count_records(shards, read)
    assert (found.low, found.middle, found.high) == pytest.approx((405, 405, 405))
    uneven = [(shard("x", -1, 100), 10), (shard("y", -1, 100), 20)]
    assert count_records(shards, uneven).middle == pytest.approx(605)
    assert count_records(shards, uneven).low < 605 < count_records(shards, uneven).high


def test_files_of_which_none_was_read_are_not_guessed():
    found = count_records([shard("a", 5), shard("b", -1)], [])
    assert (found.low, found.high) == (5, math.inf)


def test_where_nothing_is_left_no_time_is_needed_not_even_to_start():
    done = replace(ESTIMATE, left=Range(0, 0, 0), start_seconds=360.0)
    assert done.hours == Range(0, 0, 0)


def test_what_nobody_knows_is_said_to_be_that():
    unknown = count_records([shard("a", 5), shard("b", -1)], [])
    said = describe_estimate(replace(ESTIMATE, records=unknown, left=unknown), 2.5, None)
    assert "records    at least 5, at least 5 of them left" in said
    assert "time left  nobody knows how long" in said
    assert "nan" not in said


def test_a_pilot_of_which_one_part_went_on_for_nothing_names_no_upper_end():
    said = describe_estimate(replace(ESTIMATE, rate=Range(0.0, 2.0, 4.0)), 2.5, None)
    assert "or more: how many is not known)" in said
    assert "inf" not in said


def test_a_small_sum_is_not_told_as_nothing():
    few = Range.exactly(3)
    said = describe_estimate(
        replace(ESTIMATE, records=few, left=few, start_seconds=0.0), 0.01, None
    )
    money = next(line for line in said.splitlines() if line.startswith("money"))
    assert money == "money      below 0.01 (below 0.01 to below 0.01)"
