"""What the S3 store makes of answers that a healthy server seldom gives."""

import base64
import hashlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workers.errors import AccessDenied, ConditionUnsupported, StorageError, StorageUnavailable
from workers.storage.s3 import S3Store

URI = "s3://bucket/x"
ETAG = {"ETag": '"e"'}


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: ETAG)
    """with a `Content-Length` of its own, also one that isn't true"""
    seconds: float = 0
    """of silence behind the body"""


HANGS_UP = Reply(0)


def refusal(status: int, code: str = "Trouble") -> Reply:
    return Reply(status, f"<Error><Code>{code}</Code></Error>".encode())


class Server(ThreadingHTTPServer):
    """Gives replies in turn, the last one again and again; keeps what it was asked."""

    daemon_threads = True

    def __init__(self, *replies: Reply) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies = list(replies)
        self.asked = []
        self.connections = 0

    def get_request(self):
        self.connections += 1
        return super().get_request()

    def handle_error(self, *_):
        pass  # a client that hangs up is the point of some of these tests


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.headers)
        replies = self.server.replies
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply is HANGS_UP:
            self.close_connection = True
            return
        self.send_response_only(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)
        time.sleep(reply.seconds)

    do_GET = do_PUT = do_HEAD = answer  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Starts a server with given replies; AWS_* point to it."""
    monkeypatch.setattr("workers.storage.s3.CONFLICT_SECONDS", 0)
    servers = []

    def start(*replies: Reply, attempts: int = 1) -> Server:
        monkeypatch.setattr("workers.storage.s3.ATTEMPTS", attempts)
        servers.append(Server(*replies))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers[-1].server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "tests")
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# Refusals


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "InvalidAccessKeyId"])
def test_a_key_that_is_good_no_longer_is_access_denied_whatever_the_status(serve, code):
    serve(refusal(400, code))
    with pytest.raises(AccessDenied, match=f"{code}.*AWS_PROFILE"):
        S3Store().get(URI)


@pytest.mark.parametrize(
    ("status", "code"),
    [(429, "Trouble"), (400, "RequestTimeout"), (400, "ThrottlingException"), (500, "Trouble")],
)
def test_a_server_that_has_no_time_is_unavailable_whatever_the_status(serve, status, code):
    serve(refusal(status, code))
    with pytest.raises(StorageUnavailable, match=f"can't just now.*{code}"):
        S3Store().get(URI)


def test_a_request_that_is_refused_for_itself_is_not_tried_again_for_ever(serve):
    serve(refusal(400))
    with pytest.raises(StorageError, match="refused the request") as caught:
        S3Store().get(URI)
    assert type(caught.value) is StorageError


# Bodies

UNTOLD = Reply(body=b"5\r\nhello\r\n0\r\n\r\n", headers={"Transfer-Encoding": "chunked", **ETAG})
SHORT = Reply(body=UNTOLD.body, headers={**UNTOLD.headers, "Content-Length": "9"})
SILENT = Reply(body=b"hello", headers={"Content-Length": "9", **ETAG}, seconds=5)
WHOLE = Reply(body=b"hello all")


@pytest.mark.parametrize("broken", [SHORT, SILENT], ids=["short", "silent"])
def test_a_body_that_does_not_come_whole_is_asked_for_again_and_then_given_up(
    serve, monkeypatch, broken
):
    """`short` ends as if all were well, and only its length tells that it isn't."""
    monkeypatch.setattr("workers.storage.s3.READ_SECONDS", 0.2)
    server = serve(broken, WHOLE)
    assert S3Store().get(URI) == WHOLE.body
    assert len(server.asked) == 2
    server = serve(broken)
    with pytest.raises(StorageUnavailable, match="no whole answer"):
        S3Store().get(URI)
    assert len(server.asked) == 3


# Writes


def test_what_is_written_goes_with_its_checksum(serve):
    """Over https nothing else tells the server that bytes were changed on the way."""
    server = serve(Reply())
    S3Store().put(URI, b"data")
    S3Store().put_if_absent(URI, b"data")
    digest = base64.b64encode(hashlib.md5(b"data").digest()).decode()
    assert [headers["Content-MD5"] for headers in server.asked] == [digest, digest]


def test_a_conditional_write_is_tried_again_after_an_error_of_the_server(serve):
    server = serve(refusal(500), Reply(), attempts=2)
    assert S3Store().put_if_absent(URI, b"data") is True
    assert [headers["If-None-Match"] for headers in server.asked] == ["*", "*"]


def test_a_conditional_write_that_ends_in_errors_of_the_server_is_neither_won_nor_lost(serve):
    serve(refusal(500))
    with pytest.raises(StorageUnavailable, match="can't just now"):
        S3Store().put_if_absent(URI, b"data")


@pytest.mark.parametrize("write", ["put", "put_if_absent"])
def test_a_key_that_others_write_all_the_time_is_given_up(serve, write):
    server = serve(refusal(409), attempts=3)
    with pytest.raises(StorageUnavailable, match="written by others all the time"):
        getattr(S3Store(), write)(URI, b"data")
    assert len(server.asked) == 3


def test_a_server_that_knows_no_condition_says_so(serve):
    serve(refusal(501))
    with pytest.raises(ConditionUnsupported, match=r"127\.0\.0\.1"):
        S3Store().put_if_absent(URI, b"data")


@pytest.mark.parametrize("stored", [b"mine", b"ours"])
def test_a_write_whose_answer_got_lost_before_a_conflict_is_known_by_its_bytes(serve, stored):
    """The answer to the first try is lost, the second meets others, the third meets the first."""
    head, body = Reply(headers={"Content-Length": "4", **ETAG}), Reply(body=stored)
    serve(HANGS_UP, refusal(409), refusal(412), head, body, attempts=2)
    assert S3Store().put_if_absent(URI, b"mine") is (stored == b"mine")


# Processes

FORKS = """
import os
from workers.storage.s3 import S3Store

assert S3Store().get("s3://bucket/x") == b"hello all"
child = os.fork()
if not child:
    os._exit(S3Store().get("s3://bucket/x") != b"hello all")
assert os.waitpid(child, 0)[1] == 0
assert S3Store().get("s3://bucket/x") == b"hello all"
"""


def test_a_process_that_was_forked_talks_over_a_connection_of_its_own(serve):
    """Two that read from one socket would get each other's answers."""
    server = serve(WHOLE)
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", FORKS], check=True, cwd=root, env=dict(os.environ))
    assert (len(server.asked), server.connections) == (3, 2)
