"""Checks of the Ray cluster: can it be reached, is it of our version, and does it ask for a token.

Whoever reaches a dashboard that asks nobody for a token runs their code on all machines of the
cluster, with all its rights: that is what submitting a job is.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from workers.doctor.findings import Finding, failed_by, failure, ok, skipped, warning
from workers.errors import LineError

OWN_DASHBOARD = "http://127.0.0.1:8265"
"""Where Ray puts it when it isn't told otherwise."""
JOBS, VERSION = "/api/jobs/", "/api/version"
"""Who may ask the first may submit jobs; the second says which Ray it is."""
ANSWER_SECONDS = 5.0
ANSWER_BYTES = 2**20
CLOSE = (
    "start the head with RAY_AUTH_MODE=token (Ray's default from 2.60 on) and a RAY_AUTH_TOKEN, and"
    " let nobody from outside reach its port (infra/ has a NetworkPolicy)"
)


def check_address() -> Iterator[Finding]:
    """Whether a run that is started here reaches the cluster that RAY_ADDRESS names."""
    name, address = "ray.address", os.environ.get("RAY_ADDRESS", "")
    if not address:
        yield skipped(name, "RAY_ADDRESS is not set: a run that is started here works here")
        return
    if address.startswith(("http://", "https://")):
        yield skipped(name, f"RAY_ADDRESS={address} is where `ray job submit` goes")
        return
    from workers.cluster import check_address as reach  # Ray takes seconds to import

    try:
        reach()
    except LineError as error:
        yield failed_by(name, error)
    else:
        yield ok(name, f"somebody listens at RAY_ADDRESS={address}")


def check_dashboard(address: str | None) -> Iterator[Finding]:
    """Whether the dashboard refuses who has no token, and lets in who has ours.

    Args:
        address: as given; without one, RAY_ADDRESS if that is one, else this machine's own.
    """
    given = address or os.environ.get("RAY_ADDRESS", "")
    url = given if given.startswith(("http://", "https://")) else OWN_DASHBOARD
    url = url.rstrip("/")
    stranger = _ask(url + JOBS)
    if stranger.code == 0:
        seen = f"no answer from {url} ({stranger.why_not})"
        unreachable = skipped("ray.dashboard", seen)
        if url != OWN_DASHBOARD:
            to_do = "start the cluster, correct --address, or forward its port to this machine"
            unreachable = failure("ray.dashboard", seen, to_do)
        yield unreachable
        return
    yield _judge_stranger(url, stranger)
    yield from _check_token(url)


@dataclass(frozen=True, slots=True)
class _Answer:
    code: int
    """of HTTP; 0 without an answer"""
    body: bytes = b""
    why_not: str = ""


class _NoRedirect(HTTPRedirectHandler):
    """A token must not follow to where a server points."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Refused: it ends as an HTTPError with the code."""


def _ask(url: str, token: str = "") -> _Answer:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        opener = build_opener(_NoRedirect)
        with opener.open(Request(url, headers=headers), timeout=ANSWER_SECONDS) as reply:
            return _Answer(reply.status, reply.read(ANSWER_BYTES))
    except HTTPError as error:
        with error:
            return _Answer(error.code)
    except URLError as error:
        return _Answer(0, why_not=f"{error.reason}")
    except (OSError, HTTPException, ValueError) as error:
        return _Answer(0, why_not=f"{error}")


def _judge_stranger(url: str, answer: _Answer) -> Finding:
    name = "ray.dashboard"
    if answer.code in (401, 403):
        return ok(name, f"{url} refuses who has no token ({answer.code})")
    if 200 <= answer.code < 300:
        seen = f"{url} lets anybody in: whoever reaches it runs code on all machines of the cluster"
        return failure(name, seen, CLOSE)
    return warning(
        name,
        f"{url} answers {answer.code} to who has no token: that is no refusal by Ray",
        "see what stands before it (a proxy with a login?), and that it can't be gone round",
    )


def _check_token(url: str) -> Iterator[Finding]:
    """Whether our token opens it, and then which Ray is there."""
    token = _read_token()
    if token:
        answer = _ask(url + JOBS, token)
        if answer.code in (401, 403):
            to_do = "export the RAY_AUTH_TOKEN that the head was started with"
            yield failure("ray.token", f"{url} refuses our token ({answer.code})", to_do)
            return
        yield ok("ray.token", f"our token is answered {answer.code}")
    else:
        yield skipped("ray.token", "neither RAY_AUTH_TOKEN nor RAY_AUTH_TOKEN_PATH is set")
    yield _compare_ray(_ask(url + VERSION, token))


def _compare_ray(answer: _Answer) -> Finding:
    name = "versions.ray"
    try:
        there = str(json.loads(answer.body)["ray_version"])
    except (ValueError, KeyError, TypeError):
        return skipped(name, f"the cluster doesn't say which Ray it is ({answer.code})")
    try:
        here = version("ray")
    except PackageNotFoundError:
        return failure(name, "Ray is not installed here", "pip install -e '.[line]'")
    if here != there:
        to_do = "install the cluster's version here, or that of constraints.txt on both"
        return failure(name, f"Ray {there} on the cluster, {here} here", to_do)
    return ok(name, f"Ray {here}, here and on the cluster")


def _read_token() -> str:
    """As Ray's own commands find it, where it was set for them."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        return Path(path).read_text(encoding="utf-8").strip() if path else ""
    except OSError:
        return ""
