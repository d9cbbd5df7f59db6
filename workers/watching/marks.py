"""Marks: by which the cursor knows what a drop was when it was labelled or refused last.

DIGEST             labelled
DIGEST-unread      labelled, but for images that the watcher may not read; tried again
DIGEST-0a1b2c3d    refused, when that was asked: looked at again when other things are
"""

from collections.abc import Iterable, Set
from hashlib import sha256

from workers.watching.settings import WatchSettings

_UNREAD = "-unread"


def mark_unread(digest: str) -> str:
    """Of a drop that is labelled but for images that the watcher may not read."""
    return f"{digest}{_UNREAD}"


def mark_refused(digest: str, settings: WatchSettings) -> str:
    """Of a drop with which nothing can be done before it, or what is asked, is another one."""
    asked = f"{settings.instruction} {settings.reading.fields}"
    return f"{digest}-{sha256(asked.encode()).hexdigest()[:8]}"


def is_settled(marks: Set[str] | None, digest: str, settings: WatchSettings) -> bool:
    """Whether nothing is to be done for a drop with this digest and these marks."""
    return marks in ({digest}, {mark_refused(digest, settings)})


def is_any_unread(marks: Iterable[str]) -> bool:
    """Whether images are left that could not be read."""
    return any(mark.endswith(_UNREAD) for mark in marks)
