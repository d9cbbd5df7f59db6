"""A proxy that does harm on the way to an S3 server: lost answers, a busy server, broken bodies."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.conftest import S3Server


class Trouble(ThreadingHTTPServer):
    """A proxy before an S3 server that does harm to the first requests of a kind.

    Args:
        harm: `drop` forwards and then closes the connection without the answer; `refuse` answers
            503, digits answer that status; `cut` forwards and sends half of the body.
    """

    daemon_threads = True

    def __init__(self, server: S3Server, method: str, harm: str, times: int) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.behind = server.url.removeprefix("http://")
        self.method = method
        self.harm = harm
        self.left = times
        self.requests = 0

    def handle_error(self, *_):
        pass  # a client that hangs up on a broken answer is the point of these tests

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self):
        trouble = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        harm = None
        if self.command == trouble.method:
            trouble.requests += 1
            trouble.left -= 1
            harm = trouble.harm if trouble.left >= 0 else None
        if harm == "refuse":
            self.answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        if harm and harm.isdigit():
            self.answer(int(harm), [], b"<Error><Code>Trouble</Code></Error>")
            return
        status, headers, answer = self.ask(body)
        if harm == "drop":
            self.close_connection = True
        else:
            self.answer(status, headers, answer, cut=harm == "cut")

    def ask(self, body):
        connection = http.client.HTTPConnection(self.server.behind)
        connection.putrequest(
            self.command, self.path, skip_host=True, skip_accept_encoding=True
        )  # the signature covers the proxy's own name in Host
        for name, value in self.headers.items():
            if name.lower() != "expect":
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), data

    def answer(self, status, headers, body, cut=False):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward  # noqa: N815

    def log_message(self, *_):
        pass
