"""The cursor of a watcher: which drops are labelled or refused, and what was in them then.

    OUTPUT/_watch/labelled/<drop>/<mark>.jsonl.gz    name and etag of all that was in it
    OUTPUT/_watch/begun/<drop>                       since when it is told of, without a mark yet
    OUTPUT/_watch/input.json                         the prefix that all this is about

One listing of these names tells which drops are up to date; their content is read when a person is
to be told what has changed, or an event asks whether its object was in it. A cursor by name or by
time would be smaller, and blind for what comes late, is replaced or is removed.
"""

import gzip
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from workers.errors import AccessDenied, ConditionUnsupported, ObjectMissing, SettingsError
from workers.labels.commits import now
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown, under

WATCH = "_watch"  # folder of the output
MARKED, _BEGUN = "labelled", "begun"
_END = ".jsonl.gz"
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", re.ASCII)
"""As `now` writes it."""
MOST_KEPT = 64
"""Contents in memory; that of a drop of 100,000 files takes some 20 MB."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is different in a drop since it was labelled last; names below its input."""

    new: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()

    @classmethod
    def between(cls, before: Mapping[str, str], after: Mapping[str, str]) -> Self:
        """Two contents, etags by name -> what happened in between."""
        return cls(
            tuple(sorted(after.keys() - before.keys())),
            tuple(name for name in sorted(after.keys() & before) if after[name] != before[name]),
            tuple(sorted(before.keys() - after.keys())),
        )


UNCHANGED = Changes()


class Cursor:
    """What is known of drops that were labelled. All of it lies in the output.

    Args:
        store: where the output lies.
        output: of the watcher.
    """

    def __init__(self, store: Store, output: str) -> None:
        self.output = output
        self._store, self._unclaimed = store, ""
        self._contents: dict[tuple[str, str], Mapping[str, str]] = {}
        """that were read already, by drop and mark; one for each drop"""

    def claim(self, prefix: str) -> None:
        """Sees to it that one prefix is watched: for another one, all these drops would be gone.

        It is noted with the first drop, by `hold`: who has mistyped it, and finds nothing, can try
        again.

        Raises:
            SettingsError: it is another one.
        """
        uri = self._claim()
        try:
            noted = self._store.get(uri)
        except ObjectMissing:
            self._unclaimed = prefix
            return
        try:
            before = json.loads(noted)["input"]
        except (ValueError, KeyError, TypeError):
            before = prefix  # of another version
        if before != prefix:
            raise SettingsError(
                f"--output {shown(self.output)} holds the labels of what is dropped under"
                f" {shown(before)}, not under {shown(prefix)}: give each input an output of its"
                f" own; if the input has moved, remove {shown(uri)}"
            )

    def hold(self) -> None:
        """Notes the prefix that was claimed: of watchers of two prefixes, one is the first.

        Raises:
            SettingsError: another prefix was noted since.
        """
        if not (prefix := self._unclaimed):
            return
        uri, data = self._claim(), json.dumps({"input": prefix}).encode()
        # looked for first: some stores overlook the condition, and say nothing of it
        if self._store.find(uri) is None:
            try:
                self._store.put_if_absent(uri, data)
            except ConditionUnsupported:  # of two in the same moment, mostly one reads its own
                self._store.put(uri, data)
        self.claim(prefix)
        self._unclaimed = ""

    def marks(self) -> Mapping[str, frozenset[str]]:
        """By drop. Of one there are two only when a watcher was killed between two writes."""
        found = defaultdict[str, set[str]](set)
        for info in self._store.list(self._place()):
            drop, _, name = (under(info.uri, self._place()) or "").rpartition("/")
            if name.endswith(_END):
                found[drop].add(name.removesuffix(_END))
        return {drop: frozenset(marks) for drop, marks in found.items()}

    def marks_of(self, drop: str) -> frozenset[str]:
        """The marks of one drop."""
        infos = self._store.list(join_uri(self._place(), drop))
        names = (info.uri.rpartition("/")[2] for info in infos)
        return frozenset(name.removesuffix(_END) for name in names if name.endswith(_END))

    def begin(self, drop: str) -> str:
        """Notes that something is about to be told of a drop; if it goes, that is told, too.

        Returns:
            When it was begun before, without a mark since: UTC, ISO 8601. Else empty. Where
            another version has not noted when, it is now, also for the next start.
        """
        self.hold()
        uri, moment = self._begun(drop), now()
        try:
            since = self._store.get(uri).decode("utf-8", "replace")
        except ObjectMissing:
            self._store.put(uri, moment.encode())
            return ""
        if _MOMENT.fullmatch(since):
            return since
        self._store.put(uri, moment.encode())
        return moment

    def begun(self) -> frozenset[str]:
        """Drops that something is told of, and that were not labelled or refused since."""
        place = self._begun()
        return frozenset(under(info.uri, place) or "" for info in self._store.list(place))

    def is_begun(self, drop: str) -> bool:
        """Whether a drop is one of these."""
        return self._store.find(self._begun(drop)) is not None

    def knows(self, drop: str) -> bool:
        """Whether anything was told of a drop, since it was not there."""
        return self.is_begun(drop) or bool(self.marks_of(drop))

    def content(self, drop: str) -> Mapping[str, str]:
        """Etags by name, of what was in a drop when it was labelled last; empty if it never was."""
        marks = sorted(self.marks_of(drop))
        if not marks:
            return {}
        key = drop, marks[0]
        if key not in self._contents:
            content = self._read(*key)
            for old in [each for each in self._contents if each[0] == drop]:
                del self._contents[old]
            self._contents[key] = content
            if len(self._contents) > MOST_KEPT:
                del self._contents[next(iter(self._contents))]
        return self._contents[key]

    def put(self, drop: str, mark: str, content: Iterable[tuple[str, str]]) -> None:
        """Notes what a drop is now that it is labelled or refused, in the place of what it was."""
        lines = "".join(json.dumps(each) + "\n" for each in content)
        self._store.put(self._place(drop, mark), gzip.compress(lines.encode(), mtime=0))
        self.forget(drop, keep=mark)

    def forget(self, drop: str, keep: str = "") -> None:
        """Takes out what is noted of a drop, but for one mark."""
        for mark in self.marks_of(drop) - {keep}:
            self._store.delete(self._place(drop, mark))
        self._store.delete(self._begun(drop))

    def _read(self, drop: str, mark: str) -> dict[str, str]:
        try:
            lines = gzip.decompress(self._store.get(self._place(drop, mark))).splitlines()
            return dict(json.loads(line) for line in lines)
        except (ObjectMissing, AccessDenied):  # another watcher was here in between, or is another
            return {}
        except (OSError, EOFError, zlib.error, ValueError, TypeError):  # damaged: as if all is new
            return {}

    def _claim(self) -> str:
        return join_uri(self.output, WATCH, "input.json")

    def _place(self, drop: str = "", mark: str = "") -> str:
        names = [drop, f"{mark}{_END}"] if drop else []
        return join_uri(self.output, WATCH, MARKED, *names)

    def _begun(self, drop: str = "") -> str:
        return join_uri(self.output, WATCH, _BEGUN, *([drop] if drop else []))
