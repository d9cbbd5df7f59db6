"""A wave: drops in this watcher's hand, labelled together by the same replicas as one job.

Each drop is a run of its own, planned, labelled and committed as by `jobs/label.py`, with a label
table of its own; they share the model that was loaded once. What is wrong with a drop, or with its
part of the output, is told with that drop, and the others go on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from workers.driver import label_runs
from workers.errors import (
    CommitError,
    LineError,
    OutputUnwritable,
    PlanError,
    SettingsError,
    StorageError,
)
from workers.exports.formats import FORMATS, export_run
from workers.labels.commits import now
from workers.markdown import one_line
from workers.progress import Progress
from workers.runs import Run, plan_run
from workers.shards.kinds import IMAGE_SUFFIXES, SHARD_SUFFIXES, is_read, kind_of, suffix_of
from workers.stopping import Stop
from workers.storage.objects import Store
from workers.storage.uris import join_uri, written
from workers.summaries import RunSummary
from workers.watching.cursor import UNCHANGED, Changes, Cursor
from workers.watching.drop_settings import settings_of
from workers.watching.drops import READY_MARK, SETTINGS_NAME, Drop, list_drop, look_at
from workers.watching.leases import Lease
from workers.watching.problems import UNREADABLE, can_any_be_read, find_problems
from workers.watching.settings import WatchSettings
from workers.watching.status import NAMES_SHOWN, DropStatus, State, say_trouble, say_what_came
from workers.watching.telling import Teller

UNREAD = "-unread"
"""Behind the digest of a drop that is labelled but for images that the watcher may not read."""
NOTHING_BUT_A_MARK = (
    f"nothing is in it but {READY_MARK}: images ({', '.join(sorted(IMAGE_SUFFIXES))}) or files that"
    f" list records ({', '.join(SHARD_SUFFIXES)}) are expected beside it; it is looked at again"
    " when something comes"
)
LabelRuns = Callable[[Sequence[Run], Progress, Stop], Iterator[RunSummary]]
"""See `workers.driver.label_runs`."""


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
    not_read: int = 0
    """files that say nothing to the line"""
    forms: Sequence[str] = ()
    """that its labels are wanted in, too"""


@dataclass(frozen=True, slots=True)
class Wave:
    """Labels drops for a watcher.

    Args:
        store: where everything lies.
        settings: of the watcher, with GPUs and precision settled.
        cursor: what is labelled already; is told of each drop that is.
        teller: tells what became of each drop.
        progress: hears of all that happens.
        stop: what may end the work early.
        label: labels the runs.
    """

    store: Store
    settings: WatchSettings
    cursor: Cursor
    teller: Teller
    progress: Progress
    stop: Stop
    label: LabelRuns = label_runs

    def run(self, drops: Sequence[tuple[Drop, Lease]]) -> Iterator[tuple[Drop, State]]:
        """Labels drops, and tells what became of each as soon as that is known.

        Nothing is told of those that were not begun when there is a reason to stop. Those that are
        still `State.LABELLING` must be looked at again.

        Raises:
            LineError: nothing could be begun, for a reason that concerns all drops.
            KeyboardInterrupt: it came while they were labelled; what became of them is told.
        """
        runs: dict[str, tuple[InHand, Run]] = {}
        yield from self._plan_all(drops, runs)
        interrupted = False
        if planned := [run for _, run in runs.values()]:
            for summary in self.label(planned, self.progress, self.stop):
                each, run = runs[summary.run_id]
                yield each.drop, self._end(each, run, summary)
                interrupted = interrupted or summary.interrupted
        if interrupted:
            raise KeyboardInterrupt

    def _plan_all(
        self, drops: Sequence[tuple[Drop, Lease]], runs: dict[str, tuple[InHand, Run]]
    ) -> Iterator[tuple[Drop, State]]:
        """Fills in the runs, and tells of the drops that have none."""
        for drop, lease in drops:
            if self.stop.reason:
                break
            each = self._hold(drop, lease)
            try:
                run = self._plan(each)
            except PlanError as error:
                refusal = self.settings.refusal_of(each.drop.digest)
                yield drop, self._tell(each, State.REFUSED, f"{error}", refusal)
            except SettingsError as error:  # of the model
                yield drop, self._tell(each, State.UNFINISHED, f"{error}")
            except (CommitError, StorageError) as error:
                yield drop, self._tell(each, State.UNFINISHED, say_trouble(error))
            else:
                if run is None:
                    yield drop, self._leave(each, "it changed while it was planned")
                else:
                    runs[run.ledger.run_id] = each, run

    def _hold(self, drop: Drop, lease: Lease) -> InHand:
        status = DropStatus.begin(
            drop.name,
            State.LABELLING,
            f"the watcher {lease.holder} has it in hand",
            source=drop.input,
            labels=join_uri(self.settings.output, drop.name),
        )
        return InHand(drop, lease, status)

    def _plan(self, each: InHand) -> Run | None:
        """The run of a drop; None where the drop is another one by the end of the plan.

        Only a drop that is the same before and after the plan is marked as labelled later on: one
        that changes and changes back would else keep the labels of what it was in between.
        """
        self.cursor.begin(each.drop.name)
        is_same = self._look_into(each)
        try:
            run = self._plan_run(each) if is_same else None
        except PlanError:  # the refusal holds as long as the drop is what it is
            if not self._is_still(each.drop):
                return None
            raise
        if run is None or not self._is_still(each.drop):
            return None
        each.status.write(self.store)
        return run

    def _look_into(self, each: InHand) -> bool:
        """Fills in what the drop holds; whether it is still the drop that was found."""
        prefix, own = self.settings.input, (self.settings.output,)
        found, each.content = list_drop(self.store, prefix, each.drop.name, own)
        each.changes = Changes.between(self.cursor.content(each.drop.name), each.content)
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
        run = plan_run(settings, self.progress.say, shallow=each.drop.is_loose)
        if settings.refresh or not self._is_worth_another_look(each, run):
            return run
        return plan_run(refreshed, self.progress.say, shallow=each.drop.is_loose)

    def _is_worth_another_look(self, each: InHand, run: Run) -> bool:
        """Whether an image that could not be read can be by now; no plan is about that."""
        noted = self.cursor.of(each.drop.name)
        if not any(mark.endswith(UNREAD) for mark in noted):
            return False
        return can_any_be_read(self.store, run.ledger.output, run.ledger.run_id)

    def _end(self, each: InHand, run: Run, summary: RunSummary) -> State:
        """What is to be told of a drop whose run has ended."""
        try:
            if summary.trouble is not None:
                raise summary.trouble
            output, run_id = summary.output, summary.run_id
            problems = find_problems(self.store, output, run_id) if summary.errors else ()
        except (CommitError, OutputUnwritable, StorageError) as error:
            return self._tell(each, State.UNFINISHED, say_trouble(error))
        each.status = each.status.with_run(summary, problems)
        message = say_what_came(summary, each.not_read)
        if summary.failures:
            return self._tell(each, State.UNFINISHED, message)
        if not each.lease.is_lost:
            message += "".join(self._export(run, form) for form in each.forms)
        if UNREADABLE in summary.errors:
            mark = f"{each.drop.digest}{UNREAD}"
            return self._tell(each, State.UNFINISHED, message, mark)
        return self._tell(each, State.DONE, message, each.drop.digest)

    def _export(self, run: Run, form: str) -> str:
        """What is to be said of the file in another form; without it, the labels are as good."""
        name = FORMATS[form].file
        uri = join_uri(run.ledger.output, name)
        try:
            export_run(form, self.store, run.ledger.output, run.ledger.run_id, uri)
        except LineError as error:
            return f"; {name} could not be written: {error}"
        return f"; also written as {name}"

    def _tell(self, each: InHand, state: State, message: str, mark: str = "") -> State:
        """For the person who dropped it; a successor's words are not written over.

        The mark for the cursor comes last: whoever is killed before it has the drop looked at and
        told of again. What is refused has one, too, since nothing can be done before something in
        it changes.
        """
        if each.lease.is_lost:
            return self._leave(each, "its lease was lost meanwhile")
        each.status = replace(each.status, state=state, message=message, updated_at=now())
        told = self.teller.tell(each.status)
        if mark and told is state:
            self.cursor.put(each.drop.name, mark, each.content.items())
        each.lease.release()
        return told

    def _leave(self, each: InHand, why: str) -> State:
        """Tells nothing of a drop but a line, and has it looked at again."""
        self.progress.say(f"{one_line(each.drop.name)}: {why}; looked at again")
        each.lease.release()
        return State.LABELLING


def _names_changed_images(each: InHand) -> bool:
    """Whether it has lists, and images that these may name are others than before.

    The plan is about the lists alone, so that only a refresh sees what has become of the images.
    """
    if not any(map(kind_of, each.content)):
        return False
    changes = each.changes
    names = (*changes.new, *changes.replaced, *changes.deleted)
    return any(suffix_of(name) in IMAGE_SUFFIXES for name in names)
