"""The doctor's checks of a cluster, against dashboards that are open, closed, or none at all."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import pytest

from tests.conftest import free_ports
from workers.doctor import ray_cluster
from workers.doctor.findings import Outcome
from workers.doctor.ray_cluster import check_address, check_dashboard

OK, WARNING, FAILURE, SKIPPED = Outcome.OK, Outcome.WARNING, Outcome.FAILURE, Outcome.SKIPPED
TOKEN = "the-token-of-the-head"


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@contextmanager
def dashboard(token: str | None = TOKEN, answer: int = 200, ray: str | None = None):
    """A dashboard that asks for a token, or for none; gives its address and what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            given = self.headers.get("Authorization")
            asked.append((self.path, given))
            allowed = token is None or given == f"Bearer {token}"
            code = answer if allowed else 401 if given is None else 403
            body = json.dumps({"ray_version": ray or version("ray")}).encode()
            self.send_response(code)
            if code in (301, 302):
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def examine(address):
    return {each.check: each for each in check_dashboard(address)}


def test_a_dashboard_that_lets_anybody_in_is_a_failure_with_the_way_to_close_it():
    with dashboard(token=None) as (url, asked):
        found = examine(url)["ray.dashboard"]
    assert found.outcome is FAILURE
    assert "lets anybody in" in found.seen
    assert "RAY_AUTH_MODE=token" in found.to_do
    assert asked[0] == ("/api/jobs/", None)


@pytest.mark.parametrize("code", [401, 403])
def test_a_dashboard_that_refuses_a_stranger_is_fine(code):
    with dashboard(token=None, answer=code) as (url, _):
        assert examine(url)["ray.dashboard"].outcome is OK


def test_our_token_opens_it_and_the_version_of_ray_is_compared(monkeypatch, tmp_path):
    with dashboard() as (url, asked):
        assert examine(url)["ray.token"].outcome is SKIPPED
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        found = examine(url)
        assert [found[name].outcome for name in found] == [OK] * 3
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", f"{tmp_path}/token")
        assert examine(url)["ray.token"].outcome is OK
    assert asked[-1] == ("/api/version", f"Bearer {TOKEN}")


def test_a_token_that_is_not_the_heads_is_a_failure_that_does_not_tell_it(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine-and-secret")
    with dashboard() as (url, _):
        found = examine(url)
    assert found["ray.token"].outcome is FAILURE
    assert "versions.ray" not in found
    assert "mine-and-secret" not in f"{found}"


def test_another_ray_on_the_cluster_is_a_failure(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with dashboard(ray="1.2.3") as (url, _):
        found = examine(url)["versions.ray"]
    assert (found.outcome, "Ray 1.2.3 on the cluster" in found.seen) == (FAILURE, True)


def test_a_login_of_somebody_else_is_a_warning_and_no_token_follows_it(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with dashboard(token=None, answer=302) as (url, asked):
        found = examine(url)["ray.dashboard"]
    assert (found.outcome, "answers 302" in found.seen) == (WARNING, True)
    assert "/elsewhere" not in {path for path, _ in asked}


def test_an_address_where_nobody_is_is_a_failure_and_no_own_dashboard_is_none(monkeypatch):
    nobody = f"http://127.0.0.1:{free_ports(1)}"
    found = examine(nobody)["ray.dashboard"]
    assert (found.outcome, "--address" in found.to_do) == (FAILURE, True)
    monkeypatch.setattr(ray_cluster, "OWN_DASHBOARD", nobody)
    assert examine(None)["ray.dashboard"].outcome is SKIPPED


def test_without_an_address_the_dashboard_is_where_jobs_are_submitted_to(monkeypatch):
    with dashboard(token=None) as (url, _):
        monkeypatch.setenv("RAY_ADDRESS", url)
        assert examine(None)["ray.dashboard"].outcome is FAILURE
        (found,) = check_address()
        assert found.outcome is SKIPPED


def test_a_cluster_that_is_not_there_is_a_failure(monkeypatch):
    monkeypatch.setattr("workers.cluster.REACH_SECONDS", 0.0)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_ports(1)}")
    (found,) = check_address()
    assert (found.outcome, "unset RAY_ADDRESS" in found.seen) == (FAILURE, True)
    with dashboard() as (url, _):
        monkeypatch.setenv("RAY_ADDRESS", url.removeprefix("http://"))
        (found,) = check_address()
    assert found.outcome is OK
    monkeypatch.delenv("RAY_ADDRESS")
    (found,) = check_address()
    assert found.outcome is SKIPPED
