"""Drops of which nothing is left, and an input that only looks as if nothing were left in it.

The labels of a drop that was deleted are kept, and its status says what was deleted. But a disk
that is not mounted looks as if everybody had deleted everything:

    the folder of the input is not there     an error of the store: it is waited for
    it is there, and nothing at all in it    told once; no drop is noted as deleted before anything
                                             lies there again, be it an empty folder

A bucket that is there and says that it is empty is believed.
"""

import os
from collections.abc import Collection

from workers.errors import SettingsError, StorageUnavailable
from workers.labels.commits import MARKERS
from workers.logs import Level
from workers.storage.objects import Store
from workers.storage.uris import join_uri, scheme_of, shown
from workers.watching.cursor import Changes, Cursor
from workers.watching.drops import look_at
from workers.watching.leases import Leases
from workers.watching.settings import WatchSettings
from workers.watching.status import DropStatus, State
from workers.watching.telling import Teller
from workers.wording import counted

_WHAT = {0: "all of it was", 1: "its only file was"}
"""That is deleted, by the number of its files."""


class Gone:
    """Tells of drops that are gone.

    Args:
        store: where everything lies.
        settings: of the watcher.
        cursor: knows what was told of; forgets what is gone.
        leases: of the watcher: of several, the one that has the lease of a drop tells.
        teller: tells.
    """

    def __init__(
        self,
        store: Store,
        settings: WatchSettings,
        cursor: Cursor,
        leases: Leases,
        teller: Teller,
    ) -> None:
        self._store, self._settings, self._cursor = store, settings, cursor
        self._leases, self._teller = leases, teller
        self._has_warned = False

    def tell(self, drops: Collection[str]) -> None:
        """Tells of drops that something was told of before, and that are not there any more.

        Raises:
            SettingsError: the input is a file, or the drops are those of another one.
            StorageUnavailable: its folder isn't there.
        """
        if self.is_bare():
            self._warn(drops)
            return
        self._has_warned = False
        if drops:  # what is known may be of another prefix, which was noted since the last sweep
            self._cursor.claim(self._settings.input)
        for name in sorted(drops):
            self._tell_one(name)

    def is_bare(self) -> bool:
        """Whether the input is a folder without anything in it, as one that no disk is mounted on.

        Raises:
            SettingsError: it is a file.
            StorageUnavailable: it isn't there.
        """
        place = self._settings.input
        if scheme_of(place):
            return False
        try:
            with os.scandir(place) as entries:
                return next(entries, None) is None
        except NotADirectoryError as error:
            raise SettingsError(
                f"--input {shown(place)} is a file: a watcher needs the folder that drops come to;"
                " one file is for jobs/label.py"
            ) from error
        except OSError as error:
            raise StorageUnavailable(
                f"the input {shown(place)} can't be looked into ({error.strerror}): is --input"
                " right, and is its disk mounted?"
            ) from error

    def _warn(self, drops: Collection[str]) -> None:
        if drops and not self._has_warned:
            self._has_warned = True
            self._teller.say(
                f"{shown(self._settings.input)} is empty, and {counted(len(drops), 'drop')} of it"
                f" {'is' if len(drops) == 1 else 'are'} known: is its disk mounted? None is noted"
                " as deleted before anything lies there again, be it an empty folder",
                Level.WARNING,
            )

    def _tell_one(self, name: str) -> None:
        if (lease := self._leases.acquire(name)) is None:
            return
        try:
            # it may be back, since the sweep began; or another watcher was first
            if not self._is_there(name) and self._cursor.knows(name):
                self._teller.tell(self._describe(name))
                self._cursor.forget(name)
        finally:
            lease.release()

    def _is_there(self, name: str) -> bool:
        own = (self._settings.output,)
        return look_at(self._store, self._settings.input, name, own) is not None

    def _describe(self, name: str) -> DropStatus:
        deleted = tuple(self._cursor.content(name))
        gone = DropStatus.begin(
            name,
            State.GONE,
            self._say_what_is_gone(name, len(deleted)),
            source=join_uri(self._settings.input, name),
            labels=join_uri(self._settings.output, name),
        )
        before = DropStatus.read(self._store, gone.labels)
        return gone.with_changes(Changes(deleted=deleted)).with_counts_of(before)

    def _say_what_is_gone(self, name: str, files: int) -> str:
        if not self._cursor.marks_of(name):
            return "all of it was deleted before it was labelled; what is labelled is kept"
        commits = join_uri(self._settings.output, name, MARKERS)
        is_labelled = self._store.any_under(commits) is not None  # not what was only refused
        kept = "the labels are kept" if is_labelled else "none of it was labelled"
        return f"{_WHAT.get(files, f'all of its {files:,} files were')} deleted; {kept}"
