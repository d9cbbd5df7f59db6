"""Checks of the stores: may the input be read, may the output be written, and how does it write."""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from workers.doctor.findings import Finding, failed_by, failure, ok, skipped, warning
from workers.doctor.ways_out import READ, WRITE, way_out
from workers.errors import AccessDenied, ConditionUnsupported, LineError, ObjectMissing
from workers.storage.objects import ObjectInfo, Store
from workers.storage.uris import join_uri, scheme_of, shown

PROBES = "_doctor"
"""Folder of the output for what is written to try whether it can be."""
REMOVED = "storage.output.delete"
CLOCK_SECONDS = 10.0
"""Two clocks that differ by more are not kept right; S3 tells the time in whole seconds."""


def check_input(store: Store, place: str) -> Iterator[Finding]:
    """Whether the input can be listed and read."""
    name = "storage.input"
    try:
        info = _look_for_one(store, place)
        if info is None and not scheme_of(place) and not os.path.lexists(place):
            yield failure(
                name, f"there is no folder {shown(place)}", "create it, or correct --input"
            )
            return
        if info is None:
            yield warning(
                name,
                f"nothing lies under {shown(place)}",
                "put something there, or correct --input; a watcher may begin with nothing",
            )
            return
        store.get(info.uri, 0, 1)
    except LineError as error:
        yield failed_by(name, error, way_out(error, place, "--input", READ))
        return
    yield ok(name, f"{shown(info.uri)} ({info.size:,} bytes) was found and read")


def check_output(store: Store, place: str) -> Iterator[Finding]:
    """Whether the output can be written, read, and tidied up; and what its conditions are worth."""
    uri, made = join_uri(place, PROBES, f"probe-{uuid.uuid4().hex}"), _missing_folders(place)
    try:
        store.put(uri, b"written")
    except LineError as error:
        yield failed_by("storage.output.write", error, way_out(error, place, "--output", WRITE))
        _remove_empty(made)
        return
    yield ok("storage.output.write", f"an object was written to {shown(join_uri(place, PROBES))}")
    try:
        yield _read_back(store, uri, place)
        yield _try_conditions(store, f"{uri}-once", place)
    finally:
        removed = _remove(store, (uri, f"{uri}-once"))
        _remove_empty(made)
    yield removed


def check_clock(store: Store, place: str) -> Iterator[Finding]:
    """Whether this machine and the store agree on the time."""
    name = "storage.clock"
    before = time.time()
    try:
        theirs = store.clock(place)
    except LineError as error:
        yield failed_by(name, error, way_out(error, place, "--output", READ))
        return
    ours = (before + time.time()) / 2
    if theirs is None:
        yield skipped(name, f"the store of {shown(place)} tells no time")
    elif abs(ours - theirs) <= CLOCK_SECONDS:
        yield ok(name, f"this machine and the store agree to {CLOCK_SECONDS:g} s")
    else:
        yield warning(
            name,
            f"this machine is {abs(ours - theirs):,.0f} s"
            f" {'ahead of' if ours > theirs else 'behind'} the store",
            "set the clock (chrony, systemd-timesyncd): S3 refuses requests that are a quarter of"
            " an hour off, and the times in tables and on pages of days are this machine's",
        )


def _look_for_one(store: Store, place: str) -> ObjectInfo | None:
    """Any object under a prefix, or the one that the place itself is."""
    return store.any_under(place) or store.find(place)


def _read_back(store: Store, uri: str, place: str) -> Finding:
    """A second start reads what the first has committed, and finds it by listing."""
    name = "storage.output.read"
    try:
        data = store.get(uri)
        listed = store.any_under(uri.rpartition("/")[0])
    except LineError as error:
        return failed_by(name, error, way_out(error, place, "--output", READ))
    if data != b"written" or listed is None:
        return failure(
            name,
            f"{shown(uri)} doesn't come back as it was written",
            "take a store that gives back what was put there, and lists it, at once",
        )
    return ok(name, "it was listed, and read back as it was written")


def _try_conditions(store: Store, uri: str, place: str) -> Finding:
    """The first write creates the object, and the second must be refused since it is there."""
    name = "storage.output.conditions"
    try:
        honoured = [store.put_if_absent(uri, data) for data in (b"1", b"2")] == [True, False]
    except ConditionUnsupported:
        honoured = False
    except LineError as error:
        return failed_by(name, error, way_out(error, place, "--output", WRITE))
    if honoured:
        return ok(name, "a conditional put is refused when the object is there: exactly once")
    return warning(
        name,
        "the store ignores If-None-Match: shards are committed at least once, not exactly once",
        "never start the same command twice at a time, nor two watchers for one prefix; or take a"
        " store with conditional puts",
    )


def _remove(store: Store, uris: Sequence[str]) -> Finding:
    """What was written to try is not left to the user; the first that can't be removed is told."""
    found = [_remove_one(store, uri) for uri in uris]
    ways = (each for each in found if each is not None)
    return next(ways, ok(REMOVED, "what was written was removed again"))


def _remove_one(store: Store, uri: str) -> Finding | None:
    """What is wrong with that, if anything."""
    try:
        store.delete(uri)
        store.stat(uri)
    except ObjectMissing:
        return None
    except AccessDenied:
        why = "may not be removed: labelling needs no such right, a watcher's leases do"
        to_do = f"remove what lies under {PROBES}, or allow s3:DeleteObject there"
        return warning(REMOVED, f"{shown(uri)} {why}", to_do)
    except LineError as error:
        return failed_by(REMOVED, error)
    return warning(REMOVED, f"{shown(uri)} is there after it was removed", "remove it by hand")


def _missing_folders(place: str) -> list[Path]:
    """Those that a probe makes, the innermost first; a bucket has none."""
    probes = Path(place, PROBES)
    folders = () if scheme_of(place) else (probes, *probes.parents)
    return [folder for folder in folders if not os.path.lexists(folder)]


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # something lies in it by now, or it was never made
            folder.rmdir()
