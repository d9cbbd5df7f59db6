from workers.prospects import FAILED_IN_A_ROW, Prospects
from workers.summaries import ShardSummary

BOTH = {"a", "b"}


def failed(run: str, *, ends_run: bool = False) -> ShardSummary:
    return ShardSummary(run, "shard", error="away", ends_run=ends_run)


def test_what_ends_one_run_ends_no_other():
    prospects = Prospects()
    for _ in range(3 * FAILED_IN_A_ROW):
        assert not prospects.are_gone_after(failed("a", ends_run=True), BOTH)
    assert not prospects.are_gone_after(ShardSummary("b", "done"), BOTH)
    assert prospects.are_gone_after(failed("b", ends_run=True), BOTH)


def test_a_row_of_failures_of_one_run_says_nothing_of_another():
    prospects = Prospects()
    for _ in range(3 * FAILED_IN_A_ROW):
        assert not prospects.are_gone_after(failed("a"), BOTH)
    assert prospects.are_gone_after(failed("b"), BOTH)  # the store is down


def test_what_is_committed_in_between_ends_a_row():
    prospects = Prospects()
    for _ in range(FAILED_IN_A_ROW):
        assert not prospects.are_gone_after(failed("a"), BOTH)
    assert not prospects.are_gone_after(ShardSummary("b", "done"), BOTH)
    assert not prospects.are_gone_after(failed("b"), BOTH)


def test_what_a_run_fails_on_that_has_ended_counts_for_no_row():
    prospects = Prospects()
    assert not prospects.are_gone_after(failed("b"), {*BOTH, "c"})
    for _ in range(FAILED_IN_A_ROW):
        assert not prospects.are_gone_after(failed("a", ends_run=True), {*BOTH, "c"})
        assert not prospects.are_gone_after(failed("a"), {*BOTH, "c"})
    assert not prospects.are_gone_after(failed("c"), {*BOTH, "c"})


def test_a_run_that_is_through_says_nothing_of_the_one_that_is_left():
    prospects = Prospects()
    assert not prospects.are_gone_after(ShardSummary("a", "its last"), {"b"})
    for _ in range(FAILED_IN_A_ROW - 1):
        assert not prospects.are_gone_after(failed("b"), {"b"})
    assert prospects.are_gone_after(failed("b"), {"b"})


def test_a_run_that_has_ended_says_nothing_of_the_one_that_goes_on():
    prospects = Prospects()
    assert not prospects.are_gone_after(failed("a", ends_run=True), BOTH)
    for _ in range(FAILED_IN_A_ROW - 1):
        assert not prospects.are_gone_after(failed("b"), BOTH)
    assert prospects.are_gone_after(failed("b"), BOTH)


def test_after_the_last_shard_there_is_nothing_left_to_be_gone():
    assert not Prospects().are_gone_after(failed("a", ends_run=True), set())
