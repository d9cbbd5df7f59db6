import json

import pytest

from tests.watching.messages import TEST_EVENT, of_eventbridge, of_s3, of_sns
from workers.watching.events import Event, NoEventError, parse_events

KEY = "in/a b/ü+1.jpg"
CREATED = Event(f"s3://b/{KEY}", "e1", is_removal=False)
REMOVED = Event(f"s3://b/{KEY}", "", is_removal=True)


@pytest.mark.parametrize(
    "body",
    [of_s3("b", KEY), of_eventbridge("b", KEY), of_sns(of_s3("b", KEY))],
    ids=["s3", "eventbridge", "sns"],
)
def test_each_form_names_the_same_object(body):
    assert parse_events(body) == (CREATED,)


def test_eventbridge_may_come_by_sns():
    assert parse_events(of_sns(of_eventbridge("b", KEY))) == (CREATED,)


@pytest.mark.parametrize(
    "body",
    [
        of_s3("b", KEY, name="ObjectRemoved:Delete"),
        of_s3("b", KEY, name="s3:ObjectRemoved:DeleteMarkerCreated"),
        of_s3("b", KEY, name="LifecycleExpiration:Delete"),
        of_eventbridge("b", KEY, kind="Object Deleted"),
    ],
)
def test_an_object_that_went_is_known_as_such(body):
    assert parse_events(body) == (REMOVED,)


def test_a_message_may_be_about_many_objects():
    events = parse_events(of_s3("b", "in/1.jpg", "in/2.jpg"))
    assert [event.uri for event in events] == ["s3://b/in/1.jpg", "s3://b/in/2.jpg"]


def test_s3_trying_whether_it_arrives_is_about_nothing():
    assert parse_events(TEST_EVENT) == ()
    assert parse_events(of_sns(TEST_EVENT)) == ()


def test_an_etag_loses_its_quotes():
    assert parse_events(of_s3("b", KEY, etag='"e1"')) == (CREATED,)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not JSON",
        "[" * 100_000,
        "[]",
        "{}",
        '"text"',
        json.dumps({"Records": []}),
        json.dumps({"Records": ["x"]}),
        json.dumps({"Records": [{"eventName": "x", "s3": {}}]}),
        json.dumps(
            {"Records": [{"eventName": "x", "s3": {"bucket": {"name": "b"}, "object": {}}}]}
        ),
        json.dumps({"source": "aws.s3", "detail": {"bucket": {}}}),
        json.dumps({"source": "aws.ec2", "detail": {}}),
        of_sns("not JSON"),
        of_sns(json.dumps({"Records": 3})),
    ],
)
def test_what_is_about_no_object_says_why(body):
    with pytest.raises(NoEventError, match=r"\w+"):
        parse_events(body)
