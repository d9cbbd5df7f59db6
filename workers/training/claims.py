"""While a run learns, nobody with other settings begins in its output.

    OUTPUT/_running.json    who it is; gone when the run has ended

States tell runs apart too, but the first one comes late. A run that was killed leaves the claim
behind: the same command goes on, for any other the message says what to delete.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from workers.errors import (
    CommitError,
    ConditionUnsupported,
    ObjectMissing,
    SettingsError,
    StorageError,
)
from workers.labels.commits import JsonFile, now
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown

RUNNING = "_running.json"
"""In the output."""


@dataclass(frozen=True, slots=True)
class Owner(JsonFile):
    """A run that learns in an output; two starts of one run are the same but for the time."""

    plan: str
    """of all that decides what is learned: its digest, and what else there is"""
    model: str
    """SHA-256 of the weights that it begins with; empty where it begins with none"""
    began_at: str
    """UTC, ISO 8601"""
    by: str
    """process and machine, for people"""


@contextmanager
def claimed(
    store: Store, output: str, plan: str, model: str = "", *, releases: bool = True
) -> Iterator[None]:
    """Keeps others away for as long as the context is open.

    Args:
        store: where the output lies.
        output: its prefix.
        plan: see `Owner`.
        model: likewise.
        releases: whether this worker takes the claim away at the end: of those that learn together,
            the one that writes.

    Raises:
        SettingsError: the output is claimed by another run.
        StorageError: the claim could not be written or read.
    """
    uri = join_uri(output, RUNNING)
    own = Owner(plan, model, now(), f"process {os.getpid()} on {socket.gethostname()}")
    _create(store, uri, own)
    found = _read(store, uri) or own
    if (found.plan, found.model) != (plan, model):
        raise SettingsError(
            f"in {shown(output)} another training run learns, with other settings or another model:"
            f" {found.by} began it at {found.began_at}. Give another output; if that run was"
            f" killed, delete {shown(uri)}"
        )
    if releases and found.by != own.by:  # the newest start is named: the one before may be dead
        store.put(uri, own.to_json())
    try:
        yield
    finally:
        if releases:
            _release(store, uri, own)


def _read(store: Store, uri: str) -> Owner | None:
    try:
        return Owner.from_json(store.get(uri), uri)
    except ObjectMissing:  # another start of the same run has just ended
        return None
    except CommitError as error:
        raise SettingsError(
            f"who learns in this output can't be read ({error}). If nobody does, delete"
            f" {shown(uri)}"
        ) from error


def _release(store: Store, uri: str, own: Owner) -> None:
    with suppress(StorageError, SettingsError):  # then it stays: how the run ended is what counts
        there = _read(store, uri)
        if there is not None and (there.plan, there.model) == (own.plan, own.model):
            store.delete(uri)


def _create(store: Store, uri: str, own: Owner) -> None:
    try:
        store.put_if_absent(uri, own.to_json())
    except ConditionUnsupported:
        if store.find(uri) is None:
            store.put(uri, own.to_json())
