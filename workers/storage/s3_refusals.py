"""What S3's answers of failure mean, as errors of ours that say the way out."""

from collections.abc import Callable
from dataclasses import dataclass

from workers.errors import (
    AccessDenied,
    CallerUnknown,
    ObjectMissing,
    StorageError,
    StorageUnavailable,
)
from workers.storage.uris import redact, shown, split_bucket

WAY_IN = (
    "Check who you are (`aws sts get-caller-identity`, AWS_PROFILE, AWS_ACCESS_KEY_ID) and that "
    "you may list, read and write there; who may not list sees a missing object like this too."
)
OWN_KEYS = (
    "Give the AWS_ACCESS_KEY_ID and the AWS_SECRET_ACCESS_KEY of this store (with the "
    "AWS_SESSION_TOKEN where they have one), or name their profile (AWS_PROFILE)"
)
_SLOW_CODES = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"})
_KEY_CODES = {
    "InvalidAccessKeyId": "it knows no such key",
    "SignatureDoesNotMatch": "the secret is not the one of that key",
    "ExpiredToken": "it has expired",
    "InvalidToken": "the session token is not the one of that key",
}
"""What is wrong with a key, by the code of the answer."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of failure."""

    status: int
    """of HTTP"""
    code: str
    """of S3, such as `NoSuchBucket`; the status where there is no body"""
    message: str
    where: str
    """the server, for a message"""

    def to_error(self, uri: str, describe_key: Callable[[], str]) -> StorageError:
        """The error that it is.

        Args:
            uri: that was asked for.
            describe_key: says with which key, and nothing of its secret.
        """
        code, status, where = self.code, self.status, self.where
        said = f"{code} {redact(self.message)}".strip()
        if code == "NoSuchBucket":
            return ObjectMissing(f"there is no bucket {split_bucket(uri)[0]!r} at {where}")
        if status == 404:
            return ObjectMissing(f"there is no object {shown(uri)}")
        if code in _KEY_CODES:
            why = f"{where} doesn't take the key {describe_key()}: {_KEY_CODES[code]} ({code})"
            return CallerUnknown(f"{shown(uri)}: {why}. {OWN_KEYS}")
        if code == "RequestTimeTooSkewed":
            return AccessDenied(
                f"{shown(uri)}: the clock of this machine is not that of {where} ({code}): set it"
                " (chrony, systemd-timesyncd)"
            )
        if status in (401, 403) or code == "AccessDenied":
            return AccessDenied(f"{shown(uri)} was refused by {where} ({said}). {WAY_IN}")
        if status == 412:
            return StorageError(f"{shown(uri)} changed while it was read. Start the run again.")
        if status >= 500 or status == 429 or code in _SLOW_CODES:
            return StorageUnavailable(f"{shown(uri)}: {where} can't just now ({said})")
        return StorageError(f"{shown(uri)}: {where} refused the request ({said})")
