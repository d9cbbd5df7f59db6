"""S3, and whatever speaks its language, as a `Store`. The one door to boto3.

Where: `AWS_ENDPOINT_URL` (or `endpoint_url` of the AWS profile) names another server than Amazon's.
Who: credentials come from the usual AWS chain (variables, profile, role), never from our settings.
Retries: botocore repeats a request (503, throttling, time-out, broken connection) up to `ATTEMPTS`
times; what it does not repeat, an answer that breaks off in its body, is asked for again here.
"""

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import Any, BinaryIO, cast

import boto3
from botocore import exceptions as aws
from botocore.config import Config

from workers.errors import (
    CallerUnknown,
    ConditionUnsupported,
    ObjectMissing,
    SettingsError,
    StorageError,
    StorageUnavailable,
)
from workers.storage.checksums import Checksum
from workers.storage.objects import ObjectInfo, RangedReader, Store, buffered, in_key_order
from workers.storage.s3_checksums import Answer, read_checksum
from workers.storage.s3_refusals import OWN_KEYS, Refusal
from workers.storage.uris import redact, shown, split_bucket

ATTEMPTS = (
    6  # with botocore's waits of mode "legacy" some 15 s of trouble pass; its "standard" mode
)
# gives up at once when many requests have failed, since all share one allowance of repetitions
CONNECT_SECONDS = 10
READ_SECONDS = 60  # between two bytes of an answer, not for all of it
CONFLICT_SECONDS = 0.1  # first wait after a 409; doubled each time, so six tries take 6 s
CONNECTIONS = 32  # kept open; beyond this urllib3 opens one a request
BODY_ATTEMPTS = 3  # each of them up to `ATTEMPTS` requests
AMAZON = (".amazonaws.com", ".amazonaws.com.cn")

_BROKEN_BODY = (aws.IncompleteReadError, aws.ReadTimeoutError, aws.ResponseStreamingError)
_UNKNOWN_CALLER = (
    aws.CredentialRetrievalError,
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.ProfileNotFound,
    aws.SSOError,
    aws.TokenRetrievalError,
)


class S3Store(Store):
    """Objects in S3 buckets. Holds nothing itself (one client a process), so it can be pickled."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The first object comes after the last page, since the order is made here.

        Amazon lists by bytes of the key; others list by folders, or twice where a page ends.
        """
        yield from in_key_order(self._pages(prefix))

    def _pages(self, prefix: str) -> Iterator[ObjectInfo]:
        bucket, key = split_bucket(prefix)
        folder = key.rstrip("/") + "/" if key else ""
        with _told(prefix):
            lister = _client().get_paginator("list_objects_v2")
            for page in lister.paginate(Bucket=bucket, Prefix=folder):
                for item in page.get("Contents", ()):
                    if not item["Key"].endswith("/"):
                        uri = f"s3://{bucket}/{item['Key']}"
                        yield ObjectInfo(uri, item["Size"], item["ETag"].strip('"'))

    def stat(self, uri: str) -> ObjectInfo:
        with _told(uri):
            found = _client().head_object(**_place(uri))
        return ObjectInfo(uri, found["ContentLength"], found["ETag"].strip('"'))

    def get(self, uri: str, start: int = 0, length: int | None = None) -> bytes:
        return self._get(uri, start, length, {})

    def _get(self, uri: str, start: int, length: int | None, only: dict[str, str]) -> bytes:
        if length == 0:
            return b""
        if start or length is not None:
            end = "" if length is None else start + length - 1
            only = {**only, "Range": f"bytes={start}-{end}"}
        with _told(uri):
            try:
                return _read_whole(partial(_client().get_object, **_place(uri), **only))
            except aws.ClientError as error:
                if _code(error) == "InvalidRange":  # it ends before `start`
                    return b""
                raise

    def open(self, uri: str) -> BinaryIO:
        """A change of the object under the reader is an error, not a mixture."""
        info = self.stat(uri)
        same = {"IfMatch": f'"{info.etag}"'}
        return buffered(RangedReader(info, lambda at, length: self._get(uri, at, length, same)))

    def checksum(self, info: ObjectInfo) -> Checksum | None:
        place = {**_place(info.uri), "IfMatch": f'"{info.etag}"'}

        def head_of_part(number: int) -> Answer:
            try:
                return cast(Answer, _client().head_object(**place, PartNumber=number))
            except aws.ClientError:  # a server that knows no parts any more: nothing to check by
                return {"ContentLength": 0}

        with _told(info.uri):
            head = _client().head_object(**place, ChecksumMode="ENABLED")
            return read_checksum(head, head_of_part)

    def any_under(self, prefix: str) -> ObjectInfo | None:
        return next(self._pages(prefix), None)

    def clock(self, place: str) -> float | None:
        """It stands in every answer, in whole seconds."""
        bucket, key = split_bucket(place)
        with _told(place):
            answer = _client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(told).timestamp() if told else None

    def put(self, uri: str, data: bytes) -> ObjectInfo:
        for attempt in range(ATTEMPTS):
            with _told(uri):
                try:
                    answer = _client().put_object(**_place(uri), **_body(data))
                except aws.ClientError as error:
                    if _status(error) != 409:
                        raise
                else:
                    return ObjectInfo(uri, len(data), answer["ETag"].strip('"'))
            time.sleep(CONFLICT_SECONDS * 2**attempt)  # 409: others write the same key just now
        raise StorageUnavailable(f"{shown(uri)} is being written by others all the time")

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """By a conditional put; after a repeated request the stored bytes are compared with ours.

        A refusal may then be the answer to our own success, whose first answer got lost.
        """
        repeated = False
        for attempt in range(ATTEMPTS):
            with _told(uri):
                try:
                    _client().put_object(**_place(uri), **_body(data), IfNoneMatch="*")
                except aws.ClientError as error:
                    repeated = repeated or _was_repeated(error)
                    if _status(error) == 412:
                        return repeated and self._holds(uri, data)
                    if _status(error) == 501:
                        raise ConditionUnsupported(f"none at {_where()}") from error
                    if _status(error) != 409:
                        raise
                else:
                    return True
            time.sleep(CONFLICT_SECONDS * 2**attempt)  # 409: others write the same key just now
        raise StorageUnavailable(f"{shown(uri)} is being written by others all the time")

    def _holds(self, uri: str, data: bytes) -> bool:
        return self.stat(uri).size == len(data) and self.get(uri) == data

    def delete(self, uri: str) -> None:
        with _told(uri):
            _client().delete_object(**_place(uri))


def _place(uri: str) -> dict[str, str]:
    bucket, key = split_bucket(uri)
    if not key:
        raise ObjectMissing(f"{shown(uri)} is a bucket, not an object")
    return {"Bucket": bucket, "Key": key}


def _body(data: bytes) -> dict[str, Any]:
    """The content and its MD5: the one checksum that every S3 server verifies."""
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    return {"Body": data, "ContentMD5": base64.b64encode(digest).decode()}


def _read_whole(request: Callable[[], Any]) -> bytes:
    """Ask and read the body to its end; once more when it breaks off on the way."""
    for _ in range(BODY_ATTEMPTS - 1):
        body = request()["Body"]
        with suppress(*_BROKEN_BODY):
            return cast(bytes, body.read())
    return cast(bytes, request()["Body"].read())


def _client() -> Any:  # noqa: ANN401 - boto3 makes its classes at run time; they have no types
    """The client of this process, thread-safe; a new one after a fork or a change of AWS_*."""
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    return _client_for(os.getpid(), settings)


@lru_cache(maxsize=1)
def _client_for(process: int, settings: tuple[tuple[str, str], ...]) -> Any:  # noqa: ANN401
    session = boto3.Session()
    options: dict[str, Any] = {
        "retries": {"mode": "legacy", "total_max_attempts": ATTEMPTS},
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": CONNECTIONS,
        "tcp_keepalive": True,
        # botocore's newer trailing checksums are refused by many other servers; see `_body`.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    try:
        if not session.client("s3", config=Config(**options)).meta.endpoint_url.endswith(AMAZON):
            # Only Amazon has a host name for each bucket; elsewhere the bucket stands in the path.
            options["s3"] = {"addressing_style": "path"}
        return session.client("s3", config=Config(**options))
    except ValueError as error:
        raise SettingsError(_wrong_endpoint(error)) from error


def _wrong_endpoint(error: ValueError) -> str:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if value := os.environ.get(name):
            return f"{name} is {shown(value)}; it must be like 'http://localhost:8333'"
    return f"the AWS settings name no server: {redact(str(error))}"


def _where() -> str:
    return shown(str(_client().meta.endpoint_url))


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Put what botocore says into the tree of `workers.errors`."""
    try:
        yield
    except aws.ClientError as error:
        raise _from_answer(uri, error) from error
    except _UNKNOWN_CALLER as error:
        raise CallerUnknown(f"{shown(uri)}: {redact(str(error))}. {OWN_KEYS}") from error
    except (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError) as error:
        raise StorageUnavailable(
            f"{shown(uri)}: no whole answer from {_where()} after {ATTEMPTS} tries "
            f"({type(error).__name__}). Is AWS_ENDPOINT_URL right, and is the server up?"
        ) from error
    except aws.BotoCoreError as error:
        raise StorageError(f"{shown(uri)}: {redact(str(error))}") from error


def _from_answer(uri: str, error: aws.ClientError) -> StorageError:
    message = error.response["Error"].get("Message", "")
    return Refusal(_status(error), _code(error), message, _where()).to_error(uri, _describe_key)


def _describe_key() -> str:
    """Its beginning and where it comes from: by mistake, the secret may stand in its place."""
    found = boto3.Session().get_credentials()
    return f"'{found.access_key[:4]}...' (from: {found.method})" if found else "none"


def _code(error: aws.ClientError) -> str:
    return str(error.response["Error"].get("Code", ""))


def _status(error: aws.ClientError) -> int:
    return int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))


def _was_repeated(error: aws.ClientError) -> bool:
    return int(error.response["ResponseMetadata"].get("RetryAttempts", 0)) > 0
