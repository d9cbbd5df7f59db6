"""What stores say of the bytes of an object, and whether a file fits."""

import base64
import hashlib
import secrets
import zlib

import pytest

from workers.errors import StorageError
from workers.storage.checksums import Checksum
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.s3 import S3Store
from workers.storage.s3_checksums import read_checksum
from workers.storage.stores import Anywhere

DATA = secrets.token_bytes(300_001)
MD5 = hashlib.md5(DATA).hexdigest()
PART = 5 * 2**20  # S3 takes no smaller part but the last


def of_parts(part_bytes: int) -> str:
    parts = [DATA[at : at + part_bytes] for at in range(0, len(DATA), part_bytes)]
    return hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize(
    "checksum",
    [
        Checksum("md5", MD5),
        Checksum("sha1", hashlib.sha1(DATA).hexdigest()),
        Checksum("sha256", hashlib.sha256(DATA).hexdigest()),
        Checksum("crc32", f"{zlib.crc32(DATA):08x}"),
        *(Checksum("md5", of_parts(size), size) for size in (300_001, 300_000, 100_000, 7_777)),
    ],
)
def test_a_file_fits_its_checksum_and_one_with_a_wrong_bit_does_not(file, checksum, monkeypatch):
    monkeypatch.setattr("workers.storage.checksums.PIECE_BYTES", 1_000)
    assert checksum.fits(file)
    file.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    assert not checksum.fits(file)


def text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, Checksum("md5", MD5)),
        ({"ServerSideEncryption": "AES256"}, Checksum("md5", MD5)),
        ({"ServerSideEncryption": "aws:kms"}, None),
        ({"SSECustomerAlgorithm": "AES256"}, None),
        ({"ETag": '"no-digest"'}, None),
        ({"ChecksumSHA256": text(b"abc")}, Checksum("sha256", b"abc".hex())),
        ({"ChecksumSHA256": f"{text(b'abc')}-2"}, Checksum("md5", MD5)),
        ({"ChecksumCRC32": text(b"\0\1\2\3")}, Checksum("crc32", "00010203")),
        ({"ChecksumCRC64NVME": text(b"12345678")}, Checksum("md5", MD5)),
        (
            {"ServerSideEncryption": "aws:kms", "ChecksumSHA1": text(b"abc")},
            Checksum("sha1", b"abc".hex()),
        ),
        ({"ETag": f'"{MD5}-4"'}, Checksum("md5", MD5, 100_000)),
        ({"ETag": f'"{MD5}-3"'}, None),  # parts of several sizes, or the server doesn't know
    ],
)
def test_what_s3_answers_is_a_checksum_or_nothing_that_can_be_checked(answer, expected):
    head = {"ETag": f'"{MD5}"', "ContentLength": len(DATA), **answer}
    assert read_checksum(head, lambda number: {"ContentLength": 100_000}) == expected


def test_a_real_server_says_the_checksum_of_what_was_put_whole_and_in_parts(
    s3_server, bucket, tmp_path
):
    whole = S3Store().put(f"s3://{bucket}/whole", DATA)
    assert Anywhere().checksum(whole) == Checksum("md5", MD5)

    client, place = s3_server.client(), {"Bucket": bucket, "Key": "parts"}
    upload = {**place, "UploadId": client.create_multipart_upload(**place)["UploadId"]}
    data, parts = secrets.token_bytes(PART) + DATA, []
    for number, piece in enumerate((data[:PART], data[PART:]), start=1):
        tag = client.upload_part(**upload, PartNumber=number, Body=piece)["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    checksum = S3Store().checksum(S3Store().stat(f"s3://{bucket}/parts"))
    assert checksum is not None
    assert checksum.part_bytes == PART
    (tmp_path / "parts").write_bytes(data)
    assert checksum.fits(tmp_path / "parts")


def test_the_checksum_is_that_of_one_version(bucket):
    old = S3Store().put(f"s3://{bucket}/x", b"old")
    S3Store().put(f"s3://{bucket}/x", b"new")
    with pytest.raises(StorageError):
        S3Store().checksum(old)


def test_a_disk_says_nothing_and_memory_all(tmp_path):
    assert LocalStore().checksum(LocalStore().put(str(tmp_path / "x"), DATA)) is None
    info = MemoryStore().put("mem://b/x", b"")
    store = MemoryStore()
    store.put("mem://b/x", DATA)
    assert store.checksum(info) == Checksum("sha256", hashlib.sha256(DATA).hexdigest())
