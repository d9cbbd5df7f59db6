"""Messages about objects, in the forms in which S3 has them sent."""

import json
from typing import Any
from urllib.parse import quote_plus

TEST_EVENT = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"})


def of_s3(bucket: str, *keys: str, etag: str = "e1", name: str = "ObjectCreated:Put") -> str:
    return json.dumps({"Records": [_record(bucket, key, etag, name) for key in keys]})


def of_sns(message: str) -> str:
    return json.dumps({"Type": "Notification", "MessageId": "1", "Message": message})


def of_eventbridge(bucket: str, key: str, etag: str = "e1", kind: str = "Object Created") -> str:
    detail = {"bucket": {"name": bucket}, "object": {"key": key, "etag": etag, "size": 1}}
    return json.dumps({"source": "aws.s3", "detail-type": kind, "detail": detail})


def _record(bucket: str, key: str, etag: str, name: str) -> dict[str, Any]:
    object_ = {"key": quote_plus(key, safe="/"), "size": 1, "eTag": etag, "sequencer": "00"}
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": name,
        "s3": {"bucket": {"name": bucket}, "object": object_},
    }
