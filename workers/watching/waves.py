"""A wave: drops in this watcher's hand, labelled together by the same replicas as one job.

Each drop is a run of its own, planned, labelled and committed as by `jobs/label.py`, with a label
table of its own; they share the model that was loaded once. What is wrong with a drop, or with its
part of the output, is told with that drop, and the others go on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
from workers.labels.commits import Commit, now
from workers.markdown import one_line
from workers.progress import Progress
from workers.runs import Run
from workers.stopping import Stop
from workers.storage.objects import Store
from workers.storage.uris import join_uri
from workers.summaries import RunSummary
from workers.watching.cursor import Cursor
from workers.watching.drops import Drop
from workers.watching.kept import commits_of, count_older
from workers.watching.leases import Lease
from workers.watching.marks import mark_refused, mark_unread
from workers.watching.planning import InHand, Planner
from workers.watching.problems import UNREADABLE, find_problems
from workers.watching.settings import WatchSettings
from workers.watching.status import State, say_trouble, say_what_came
from workers.watching.telling import Teller

LabelRuns = Callable[[Sequence[Run], Progress, Stop], Iterator[RunSummary]]
"""See `workers.driver.label_runs`."""


@dataclass(frozen=True, slots=True)
class Waves:
    """Labels drops for a watcher, wave after wave.

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
        for drop, lease in drops:
            if self.stop.reason:
                break
            each = InHand.begin(drop, lease, self.settings.output)
            planned = self._plan(each)
            if isinstance(planned, Run):
                runs[planned.ledger.run_id] = each, planned
            else:
                yield drop, planned
        yield from self._label_all(runs)

    def _plan(self, each: InHand) -> Run | State:
        """The run of a drop, told as begun; or what was told of one that has none."""
        planner = Planner(self.store, self.settings, self.cursor, self.progress.say)
        try:
            if (run := planner.plan(each)) is None:
                return self._leave(each, "it changed while it was planned")
            each.status.write(self.store)
            return run
        except PlanError as error:
            mark = mark_refused(each.drop.digest, self.settings)
            return self._tell(each, State.REFUSED, f"{error}", mark)
        except SettingsError as error:  # of the model
            return self._tell(each, State.UNFINISHED, f"{error}")
        except (CommitError, StorageError) as error:
            return self._tell(each, State.UNFINISHED, say_trouble(error))

    def _label_all(self, runs: Mapping[str, tuple[InHand, Run]]) -> Iterator[tuple[Drop, State]]:
        """Has runs labelled together, by id, and tells what became of their drops."""
        if not runs:
            return
        interrupted = False
        for summary in self.label([run for _, run in runs.values()], self.progress, self.stop):
            each, run = runs[summary.run_id]
            yield each.drop, self._end(each, run, summary)
            interrupted = interrupted or summary.interrupted
        if interrupted:
            raise KeyboardInterrupt

    def _end(self, each: InHand, run: Run, summary: RunSummary) -> State:
        """What is to be told of a drop whose run has ended."""
        try:
            if summary.trouble is not None:
                raise summary.trouble
            commits = commits_of(self.store, run, summary)
            summary = summary.with_sums_of(commits)  # also those of earlier starts
            problems = find_problems(self.store, summary.output, commits)
            kept = self._count_kept(each, summary, commits)
        except (CommitError, OutputUnwritable, StorageError) as error:
            return self._tell(each, State.UNFINISHED, say_trouble(error))
        each.status = each.status.with_run(summary, problems, kept)
        message = say_what_came(summary, each.not_read, run.beside)
        if summary.failures:
            return self._tell(each, State.UNFINISHED, message)
        if not each.lease.is_lost:
            message += "".join(self._export(run, form) for form in each.forms)
        if UNREADABLE in summary.errors:
            mark = mark_unread(each.drop.digest)
            return self._tell(each, State.UNFINISHED, message, mark)
        return self._tell(each, State.DONE, message, each.drop.digest)

    def _count_kept(self, each: InHand, summary: RunSummary, commits: Sequence[Commit]) -> int:
        """Rows that are as they were before the drop was changed.

        Of a start that goes on where another one was killed, what that one has made is no such row.
        """
        if not each.begun_at:
            return sum(summary.counts.values()) - summary.asked
        if each.is_first:
            return 0
        return count_older(self.store, summary.output, commits, each.begun_at)

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
        told = self.teller.tell(each.status, on_purpose=bool(self.stop.reason))
        if mark and told is state:
            self.cursor.put(each.drop.name, mark, each.content.items())
        each.lease.release()
        return told

    def _leave(self, each: InHand, why: str) -> State:
        """Tells nothing of a drop but a line, and has it looked at again."""
        name = each.drop.name
        self.progress.say(f"{one_line(name)}: {why}; looked at again", drop=name)
        each.lease.release()
        return State.LABELLING
