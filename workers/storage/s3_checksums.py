"""What S3's answers say of the bytes of an object, as a `Checksum`."""

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

from workers.storage.checksums import Checksum

_FIELDS = {"sha256": "ChecksumSHA256", "sha1": "ChecksumSHA1", "crc32": "ChecksumCRC32"}
_MD5 = re.compile(r"[0-9a-f]{32}")
_MD5_OF_PARTS = re.compile(r"([0-9a-f]{32})-([0-9]+)")
_OWN_KEYS = ("aws:kms", "aws:kms:dsse")
"""Encryption under which an ETag is no MD5; nor is it with a customer's key."""

Answer = Mapping[str, Any]


def read_checksum(head: Answer, head_of_part: Callable[[int], Answer]) -> Checksum | None:
    """What is said of the object; None when it is nothing that can be checked here.

    Args:
        head: the answer to HeadObject with its checksums.
        head_of_part: gives the answer to HeadObject of a part, from 1.
    """
    for algorithm, field in _FIELDS.items():
        value = head.get(field, "")
        if value and "-" not in value:  # else it is one of parts, whose sizes may differ
            return Checksum(algorithm, base64.b64decode(value).hex())
    if head.get("ServerSideEncryption") in _OWN_KEYS or head.get("SSECustomerAlgorithm"):
        return None
    etag = head["ETag"].strip('"')
    if _MD5.fullmatch(etag):
        return Checksum("md5", etag)
    if found := _MD5_OF_PARTS.fullmatch(etag):
        return _of_parts(found[1], int(found[2]), head["ContentLength"], head_of_part(1))
    return None


def _of_parts(md5: str, parts: int, size: int, first: Answer) -> Checksum | None:
    """The parts of nearly all writers are of one size but for the last; other files aren't checked.

    Servers that don't know the question answer it as one about the whole object.
    """
    part_bytes = int(first["ContentLength"])
    if part_bytes <= 0 or -(-size // part_bytes) != parts:
        return None
    return Checksum("md5", md5, part_bytes)
