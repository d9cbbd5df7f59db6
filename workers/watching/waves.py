"""A wave: drops in this watcher's hand, labelled together by the same replicas as one job.

Each drop is a run of its own, planned, labelled and committed as by `jobs/label.py`, with a label
table of its own; they share the model that was loaded once.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from workers.driver import label_runs
from workers.errors import LineError, PlanError, SettingsError, StorageError
from workers.exports.formats import FORMATS, export_run
from workers.labels.commits import now
from workers.markdown import one_line
from workers.progress import Progress
from workers.runs import Run, plan_run
from workers.shards.kinds import is_read
from workers.stopping import Stop
from workers.storage.objects import Store
from workers.storage.uris import join_uri, written
from workers.summaries import RunSummary
from workers.watching.cursor import Changes, Cursor
from workers.watching.days import Days
from workers.watching.drop_settings import settle_drop
from workers.watching.drops import SETTINGS_NAME, Drop, list_drop
from workers.watching.leases import Lease
from workers.watching.settings import WatchSettings
from workers.watching.status import (
    NAMES_SHOWN,
    DropStatus,
    State,
    find_problems,
    say_what_came,
)

REASONS_TOLD = 5
"""Why parts of a drop are not labelled, the commonest first."""
LabelRuns = Callable[[Sequence[Run], Progress, Stop], Iterator[RunSummary]]
"""See `workers.driver.label_runs`."""


@dataclass(slots=True)
class Taken:
    """A drop in hand."""

    drop: Drop
    lease: Lease
    content: Mapping[str, str]
    """etags by name, of what was in it when it was taken"""
    status: DropStatus
    """as it was told last"""
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
        days: hears what became of each drop, too.
        progress: hears of all that happens.
        stop: what may end the work early.
        label: labels the runs.
    """

    store: Store
    settings: WatchSettings
    cursor: Cursor
    days: Days
    progress: Progress
    stop: Stop
    label: LabelRuns = label_runs

    def run(self, drops: Sequence[tuple[Drop, Lease]]) -> Iterator[tuple[Drop, State]]:
        """Labels drops, and tells what became of each as soon as that is known.

        Nothing is told of those that were not begun when there is a reason to stop.

        Raises:
            LineError: nothing could be begun, for a reason that concerns all drops.
            KeyboardInterrupt: it came while they were labelled; what became of them is told.
        """
        runs: dict[str, tuple[Taken, Run]] = {}
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
        self, drops: Sequence[tuple[Drop, Lease]], runs: dict[str, tuple[Taken, Run]]
    ) -> Iterator[tuple[Drop, State]]:
        """Fills in the runs, and tells of the drops that have none."""
        for drop, lease in drops:
            if self.stop.reason:
                break
            each = self._take(drop, lease)
            try:
                run = self._plan(each)
            except PlanError as error:
                yield each.drop, self._tell(each, State.REFUSED, f"{error}")
            except (SettingsError, StorageError) as error:  # of the model, or of what changes now
                yield each.drop, self._tell(each, State.UNFINISHED, f"{error}")
            else:
                runs[run.ledger.run_id] = each, run

    def _take(self, drop: Drop, lease: Lease) -> Taken:
        exclude = (self.settings.output,)
        content = dict(list_drop(self.store, drop, exclude))
        before = self.cursor.content(drop.name)
        status = DropStatus.begin(
            drop.name,
            State.LABELLING,
            f"the watcher {lease.holder} has it in hand",
            source=drop.input,
            labels=join_uri(self.settings.output, drop.name),
            changes=Changes.between(before, content),
            files=drop.files,
            size=drop.size,
        )
        unread = sorted(name for name in content if not is_read(name, content))
        unread = [name for name in unread if name != SETTINGS_NAME]
        status = replace(status, not_read=tuple(map(written, unread[:NAMES_SHOWN])))
        taken = Taken(drop, lease, content, status, len(unread))
        status.write(self.store)
        return taken

    def _plan(self, each: Taken) -> Run:
        try:
            settings = settle_drop(self.store, each.drop, self.settings)
        except SettingsError as error:  # all others are about the watcher's own
            raise PlanError(f"{error}") from error
        each.forms = settings.forms
        return plan_run(settings, self.progress.say, shallow=each.drop.is_loose)

    def _end(self, each: Taken, run: Run, summary: RunSummary) -> State:
        """What is to be told of a drop whose run has ended."""
        store, output = self.store, summary.output
        each.status = replace(
            each.status,
            run_id=summary.run_id,
            rows=sum(summary.counts.values()),
            counts=dict(summary.counts),
            reasons=dict(summary.errors),
            masks=summary.targets,
            kept=sum(summary.counts.values()) - summary.asked,
            problems=find_problems(store, output, summary.run_id) if summary.errors else (),
            not_done=dict(Counter(summary.failures.values()).most_common(REASONS_TOLD)),
        )
        if each.lease.is_lost:
            self.progress.say(
                f"{one_line(each.drop.name)}: its lease was lost meanwhile; looked at again"
            )
            return State.LABELLING
        message = say_what_came(summary, each.not_read)
        if summary.failures:
            return self._tell(each, State.UNFINISHED, message)
        message += "".join(self._export(run, form) for form in each.forms)
        return self._tell(each, State.DONE, message)

    def _export(self, run: Run, form: str) -> str:
        """What is to be said of the file in another form; without it, the labels are as good."""
        name = FORMATS[form].file
        uri = join_uri(run.ledger.output, name)
        try:
            export_run(form, self.store, run.ledger.output, run.ledger.run_id, uri)
        except LineError as error:
            return f"; {name} could not be written: {error}"
        return f"; also written as {name}"

    def _tell(self, each: Taken, state: State, message: str) -> State:
        """For the person who dropped it; a successor's words are not written over.

        The mark comes last: whoever is killed before it has the drop looked at and told of again.
        What is refused has it too, since nothing can be done before something in it changes.
        """
        each.status = replace(each.status, state=state, message=message, updated_at=now())
        self.progress.say(f"{one_line(each.drop.name)}: {message}")
        if not each.lease.is_lost:
            each.status.write(self.store)
            self.days.note(each.status)
        if state is not State.UNFINISHED and not each.lease.is_lost:
            digest = each.drop.digest
            noted = self.settings.refusal_of(digest) if state is State.REFUSED else digest
            self.cursor.put(each.drop.name, noted, each.content.items())
        each.lease.release()
        return state
