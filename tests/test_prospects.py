from workers.prospects import FAILED_IN_A_ROW, Prospects
from workers.summaries import ShardSummary


def failed(run: str, *, ends_run: bool = False) -> ShardSummary:
    return ShardSummary(run, "shard", error="away", ends_run=ends_run)


def test_what_ends_one_run_ends_no_other():
    prospects = Prospects(2)
    for _ in range(3 * FAILED_IN_A_ROW):
        assert not prospects.are_gone_after(failed("a", ends_run=True))
    assert not prospects.are_gone_after(ShardSummary("b", "done"))
    assert prospects.are_gone_after(failed("b", ends_run=True))


def test_a_row_of_failures_of_one_run_says_nothing_of_another():
    prospects = Prospects(2)
    for _ in range(3 * FAILED_IN_A_ROW):
        assert not prospects.are_gone_after(failed("a"))
    assert prospects.are_gone_after(failed("b"))  # the store is down


def test_what_is_committed_in_between_ends_a_row():
    prospects = Prospects(2)
    for _ in range(FAILED_IN_A_ROW):
        assert not prospects.are_gone_after(failed("a"))
    assert not prospects.are_gone_after(ShardSummary("b", "done"))
    assert not prospects.are_gone_after(failed("b"))


def test_what_a_run_fails_on_that_has_ended_counts_for_no_row():
    prospects = Prospects(3)
    assert not prospects.are_gone_after(failed("b"))
    for _ in range(FAILED_IN_A_ROW):
        assert not prospects.are_gone_after(failed("a", ends_run=True))
        assert not prospects.are_gone_after(failed("a"))
    assert not prospects.are_gone_after(failed("c"))
