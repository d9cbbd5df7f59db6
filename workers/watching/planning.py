"""A drop in this watcher's hand -> the run that labels it, planned as by `jobs/label.py`.

A plan knows what a listing shows. So it is told to look again at the images themselves (a refresh)
where these may have changed without it: where lists name them, and where they could not be read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from workers.errors import PlanError, SettingsError, StorageError
from workers.runs import Run, plan_run
from workers.shards.kinds import IMAGE_SUFFIXES, SHARD_SUFFIXES, is_read, kind_of, suffix_of
from workers.storage.objects import Store
from workers.storage.uris import join_uri, written
from workers.watching.cursor import UNCHANGED, Changes, Cursor
from workers.watching.drop_settings import settings_of
from workers.watching.drops import READY_MARK, SETTINGS_NAME, Drop, list_drop, look_at
from workers.watching.leases import Lease
from workers.watching.marks import is_any_unread
from workers.watching.problems import can_any_be_read
from workers.watching.settings import WatchSettings
from workers.watching.status import NAMES_SHOWN, DropStatus, State
from workers.watching.telling import Say

NOTHING_BUT_A_MARK = (
    f"nothing is in it but {READY_MARK}: images ({', '.join(sorted(IMAGE_SUFFIXES))}) or files that"
    f" list records ({', '.join(SHARD_SUFFIXES)}) are expected beside it; it is looked at again"
    " when something comes"
)


@dataclass(slots=True)
class InHand:
    """A drop in this watcher's hand."""

    drop: Drop
    lease: Lease
    status: DropStatus
    """as it was told last"""
    content: Mapping[str, str] = field(default_factory=dict)
    """etags by name, of what is in it, by the same listing as `drop`"""
    changes: Changes = UNCHANGED
    """since it was labelled last"""
    is_first: bool = False
    """it was never labelled"""
    begun_at: str = ""
    """before, and not brought to an end: UTC, ISO 8601; else empty"""
    not_read: int = 0
    """files that say nothing to the line"""
    forms: Sequence[str] = ()
    """that its labels are wanted in, too"""

    @classmethod
    def begin(cls, drop: Drop, lease: Lease, output: str) -> Self:
        """Of a drop that nothing is known of yet but that it is in hand.

        Args:
            drop: as it was found.
            lease: of it.
            output: of the watcher.
        """
        status = DropStatus.begin(
            drop.name,
            State.LABELLING,
            f"the watcher {lease.holder} has it in hand",
            source=drop.input,
            labels=join_uri(output, drop.name),
        )
        return cls(drop, lease, status)


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans drops for a watcher.

    Args:
        store: where everything lies.
        settings: of the watcher, with GPUs and precision settled.
        cursor: what is labelled already.
        say: takes lines for the user.
    """

    store: Store
    settings: WatchSettings
    cursor: Cursor
    say: Say

    def plan(self, each: InHand) -> Run | None:
        """The run of a drop; None where the drop is another one by the end of the plan.

        Only a drop that is the same before and after the plan is marked as labelled later on: one
        that changes and changes back would else keep the labels of what it was in between.

        Raises:
            PlanError: nothing can be done before something in the drop is changed.
            SettingsError, CheckpointError: the model can't be used.
            CommitError: the output is damaged.
            StorageError: a store failed.
        """
        each.begun_at = self.cursor.begin(each.drop.name)
        if each.drop.trouble:  # what can't be seen is not deleted: nothing is said of changes
            raise StorageError(each.drop.trouble)
        is_same = self._look_into(each)
        try:
            run = self._plan_run(each) if is_same else None
        except PlanError:  # the refusal holds as long as the drop is what it is
            if not self._is_still(each.drop):
                return None
            raise
        if run is None or not self._is_still(each.drop):
            return None
        return run

    def _look_into(self, each: InHand) -> bool:
        """Fills in what the drop holds; whether it is still the drop that was found."""
        prefix, own = self.settings.input, (self.settings.output,)
        found, each.content = list_drop(self.store, prefix, each.drop.name, own)
        before = self.cursor.content(each.drop.name)
        each.is_first, each.changes = not before, Changes.between(before, each.content)
        unread = sorted(name for name in each.content if not is_read(name, each.content))
        unread = [name for name in unread if name != SETTINGS_NAME]
        each.not_read = len(unread)
        each.status = replace(
            each.status.with_changes(each.changes),
            files=each.drop.files,
            size=each.drop.size,
            not_read=tuple(map(written, unread[:NAMES_SHOWN])),
        )
        return found is not None and found.digest == each.drop.digest

    def _is_still(self, drop: Drop) -> bool:
        own = (self.settings.output,)
        found = look_at(self.store, self.settings.input, drop.name, own)
        return found is not None and found.digest == drop.digest

    def _plan_run(self, each: InHand) -> Run:
        if not each.content:
            raise PlanError(NOTHING_BUT_A_MARK)
        try:
            settings = settings_of(self.store, each.drop, self.settings)
        except SettingsError as error:  # all others are about the watcher's own
            raise PlanError(f"{error}") from error
        each.forms = settings.forms
        refreshed = settings.model_copy(update={"refresh": True})
        if _names_changed_images(each):
            settings = refreshed
        run = plan_run(settings, self.say, shallow=each.drop.is_loose)
        if settings.refresh or not self._is_worth_another_look(each, run):
            return run
        return plan_run(refreshed, self.say, shallow=each.drop.is_loose)

    def _is_worth_another_look(self, each: InHand, run: Run) -> bool:
        """Whether an image that could not be read can be by now; no plan is about that."""
        if not is_any_unread(self.cursor.marks_of(each.drop.name)):
            return False
        return can_any_be_read(self.store, run.ledger.output, run.ledger.run_id)


def _names_changed_images(each: InHand) -> bool:
    """Whether it has lists, and images that these may name are others than before.

    The plan is about the lists alone, so that only a refresh sees what has become of the images.
    """
    if not any(map(kind_of, each.content)):
        return False
    changes = each.changes
    names = (*changes.new, *changes.replaced, *changes.deleted)
    return any(suffix_of(name) in IMAGE_SUFFIXES for name in names)
