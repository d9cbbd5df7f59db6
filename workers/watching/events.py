"""Messages of a queue -> what they say of objects.

S3 sends notifications in a form of its own (Amazon S3 User Guide, "Event message structure"), also
wrapped by SNS, and by way of EventBridge in another one. An event only says where to look: it may
come twice, late, in a wrong order or never, and nothing is labelled on its word alone.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote_plus

Json = Mapping[str, object]
REMOVALS = ("ObjectRemoved", "LifecycleExpiration")
"""How names of events begin that are about an object that went."""


@dataclass(frozen=True, slots=True)
class Event:
    """An object that was written or removed."""

    uri: str
    etag: str
    """empty where it was removed, or the event has none"""
    is_removal: bool


class NoEventError(ValueError):
    """A message that is about no object, and will not be, however often it comes."""


def parse_events(body: str) -> tuple[Event, ...]:
    """What a message says; nothing where S3 only tries whether it arrives.

    Args:
        body: of the message.

    Raises:
        NoEventError: it is in no form of S3's, or about nothing that is an object.
    """
    message = _mapping(_parse(body), "it")
    if message.get("Type") == "Notification" and "Message" in message:
        message = _mapping(_parse(_text(message, "Message")), "the message that SNS wraps")
    if message.get("Event") == "s3:TestEvent":
        return ()
    if message.get("source") == "aws.s3":
        return (_of_eventbridge(message),)
    records = message.get("Records")
    if not isinstance(records, list) or not records:
        raise NoEventError("it is no notification about S3, from S3, SNS or EventBridge")
    return tuple(_of_records(records))


def _of_records(records: list[object]) -> Iterator[Event]:
    for each in records:
        record = _mapping(each, "a record")
        name = _text(record, "eventName").removeprefix("s3:")
        s3 = _mapping(record.get("s3"), "`s3`")
        bucket, object_ = (
            _mapping(s3.get("bucket"), "`bucket`"),
            _mapping(s3.get("object"), "`object`"),
        )
        key = unquote_plus(_text(object_, "key"))  # this form has keys as in the query of an URL
        yield _event(bucket, key, object_.get("eTag"), name.startswith(REMOVALS))


def _of_eventbridge(message: Json) -> Event:
    detail = _mapping(message.get("detail"), "`detail`")
    object_ = _mapping(detail.get("object"), "`object`")
    removed = message.get("detail-type") == "Object Deleted"
    bucket = _mapping(detail.get("bucket"), "`bucket`")
    return _event(bucket, _text(object_, "key"), object_.get("etag"), removed)


def _event(bucket: Json, key: str, etag: object, is_removal: bool) -> Event:
    said = "" if is_removal or not isinstance(etag, str) else etag.strip('"')
    return Event(f"s3://{_text(bucket, 'name')}/{key}", said, is_removal)


def _parse(text: str) -> object:
    try:
        return cast(object, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise NoEventError(f"it is no JSON: {error}") from error


def _mapping(value: object, what: str) -> Json:
    if not isinstance(value, Mapping):
        raise NoEventError(f"{what} is no mapping")
    return value


def _text(values: Json, name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise NoEventError(f"`{name}` is missing or no text")
    return value
