import pytest

from workers.report import describe_run
from workers.summaries import RunSummary


def make_run(**more) -> RunSummary:
    values = {
        "run_id": "label-1",
        "output": "s3://b/out",
        "shards": 9,
        "found_committed": 2,
        "counts": {"ok": 1200, "empty": 3},
        "errors": {},
        "targets": 2000,
        "reused": 7,
        "seconds": 3725.0,
        "pace": 0.0,
        "at_once": 87.5,
        "failures": {},
        **more,
    }
    return RunSummary(**values)


@pytest.mark.parametrize(
    ("failures", "interrupted", "stopped", "code"),
    [
        ({}, False, "", 0),
        ({"a": "x"}, False, "", 1),
        ({"a": "x"}, False, "the deadline has come", 3),
        ({"a": "x"}, True, "", 130),
    ],
)
def test_the_exit_code_tells_whether_all_is_committed(failures, interrupted, stopped, code):
    made = make_run(failures=failures, interrupted=interrupted, stopped=stopped)
    assert made.exit_code == code


def test_the_summary_tells_counts_and_where_the_labels_are():
    text = describe_run(make_run(failures={f"{n}": "no room" for n in range(7)}))
    assert "2 of 9 committed, 2 of them before this start" in text
    assert "1,203" in text
    assert "1 h 02 min; the model had 88 questions under way on average" in text
    assert "reused     7 of the rows, from earlier runs" in text
    assert "reused" not in describe_run(make_run(reused=0))
    assert "'s3://b/out'" in text
    assert text.count("no room") == 5
    assert "and 2 more" in text
    assert "not done" not in describe_run(make_run())


def test_the_summary_tells_why_rows_have_no_answer_the_commonest_first():
    errors = {"image_broken": 2, "image_missing": 1000, "model_failed": 1}
    text = describe_run(make_run(errors=errors))
    assert "reasons    image_missing 1,000, image_broken 2, model_failed 1; the column" in text
    many = {f"reason_{number}": 9 - number for number in range(7)}
    assert "reason_4 5, 2 more;" in describe_run(make_run(errors=many))
    assert "reasons" not in describe_run(make_run())


def test_rows_of_an_unfinished_run_are_said_to_be_those_of_this_start():
    unfinished = describe_run(make_run(failures={"a": "no room"}))
    assert "1,203 in the shards that this start committed" in unfinished
    assert "this start committed" not in describe_run(make_run())


def test_how_many_questions_were_under_way_at_once_is_told_when_there_were_any():
    assert "1 h 02 min\n" in describe_run(make_run(at_once=0.0))
    assert "under way" not in describe_run(make_run(at_once=0.0))


def test_a_pilot_tells_how_long_a_million_questions_would_take():
    text = describe_run(make_run(pace=250.0))
    assert "pace       250.0 questions/s with the model loaded: 1 h 06 min a million" in text
    assert "pace" not in describe_run(make_run())
