"""What a check has found: how it is, what was seen, and what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from pixellm.errors import PixelLMError


class Outcome(StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    """a job runs, but not as well or as safely as it could"""
    FAILURE = "failure"
    """a job would not run, or anybody could run theirs"""
    SKIPPED = "skipped"
    """there was nothing to look at"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found."""

    check: str
    """its name: `storage.output.delete`"""
    outcome: Outcome
    seen: str
    to_do: str = ""
    """empty where there is nothing to do"""


Check = Callable[[], Iterator[Finding]]


def ok(check: str, seen: str) -> Finding:
    """All is well."""
    return Finding(check, Outcome.OK, seen)


def warning(check: str, seen: str, to_do: str) -> Finding:
    """A job runs all the same."""
    return Finding(check, Outcome.WARNING, seen, to_do)


def failure(check: str, seen: str, to_do: str) -> Finding:
    """A job would not run, or should not."""
    return Finding(check, Outcome.FAILURE, seen, to_do)


def skipped(check: str, seen: str) -> Finding:
    """There was nothing to look at."""
    return Finding(check, Outcome.SKIPPED, seen)


def failed_by(check: str, error: PixelLMError, to_do: str = "") -> Finding:
    """What went wrong on purpose says itself what to do."""
    return failure(check, f"{error}", to_do or "see the message")
