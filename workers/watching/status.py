"""What became of a drop, for the person who dropped it: OUTPUT/<drop>/_status.json.

The same is kept for its day, see `workers.watching.days`.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Self

from workers.errors import CommitError, LineError, StorageError, StorageUnavailable
from workers.labels.commits import now
from workers.labels.rows import LABELLED
from workers.storage.objects import Store
from workers.storage.uris import join_uri, shown, written
from workers.summaries import RunSummary
from workers.watching.cursor import Changes
from workers.watching.problems import UNREADABLE, Problem
from workers.wording import counted

STATUS_NAME = "_status.json"
NAMES_SHOWN = 20
"""Of changed files: enough to see what has come, and no list of all."""
NOT_OURS = (AttributeError, KeyError, TypeError, ValueError)
"""What reading a status raises that another version has written, or somebody else."""
REASONS_SHOWN = 5
"""Why parts of a drop are not labelled, the commonest first."""


class State(StrEnum):
    """Where a drop is on its way."""

    LABELLING = "labelling"
    """a watcher has it in hand; if that one dies, another takes over"""
    DONE = "done"
    UNFINISHED = "unfinished"
    """some of it is not labelled; it is tried again"""
    REFUSED = "refused"
    """nothing can be done before something in it is changed"""
    GONE = "gone"
    """all of it was deleted; the labels are kept"""


@dataclass(frozen=True, slots=True)
class DropStatus:
    """What there is to say of a drop."""

    drop: str
    state: State
    message: str
    """one sentence for people"""
    input: str
    labels: str
    """prefix of the label table"""
    began_at: str
    """UTC, ISO 8601"""
    updated_at: str
    """likewise"""
    files: int = 0
    size: int = 0
    """bytes of the files"""
    changes: Mapping[str, int] = field(default_factory=dict)
    """files that are new, replaced and deleted since it was labelled last"""
    changed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """some of their names"""
    not_read: tuple[str, ...] = ()
    """some of the files that are of a kind that says nothing to the line"""
    run_id: str = ""
    rows: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    """rows by status"""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """rows without an answer by reason"""
    masks: int = 0
    kept: int = 0
    """rows that were carried over, since their image and question are the same as before"""
    problems: tuple[Problem, ...] = ()
    """some of the rows without an answer; all are in the table"""
    not_done: Mapping[str, int] = field(default_factory=dict)
    """shards that are not committed, by reason"""

    @classmethod
    def begin(cls, drop: str, state: State, message: str, *, source: str, labels: str) -> Self:
        """A first word on a drop; for what each means, see the fields."""
        moment = now()
        return cls(
            drop=drop,
            state=state,
            message=message,
            input=source,
            labels=labels,
            began_at=moment,
            updated_at=moment,
        )

    @classmethod
    def read(cls, store: Store, labels: str) -> Self | None:
        """What was told of a drop last; None where nothing was, or it can't be read any more.

        Args:
            store: where the output lies.
            labels: of the drop.

        Raises:
            StorageUnavailable: the store is away.
        """
        try:
            return cls.from_json(store.get(join_uri(labels, STATUS_NAME)))
        except StorageUnavailable:  # what is away for a moment is not nothing
            raise
        except (StorageError, *NOT_OURS):
            return None

    def with_changes(self, changes: Changes) -> Self:
        """With what is different since it was labelled last."""
        named = {"new": changes.new, "replaced": changes.replaced, "deleted": changes.deleted}
        some = {kind: tuple(map(written, names[:NAMES_SHOWN])) for kind, names in named.items()}
        return replace(
            self,
            changes={kind: len(names) for kind, names in named.items()},
            changed={kind: names for kind, names in some.items() if names},
        )

    def with_run(self, summary: RunSummary, problems: tuple[Problem, ...], kept: int) -> Self:
        """With what became of its run; for what is kept, and the problems, see the fields."""
        return replace(
            self,
            run_id=summary.run_id,
            rows=sum(summary.counts.values()),
            counts=dict(summary.counts),
            reasons=dict(summary.errors),
            masks=summary.targets,
            kept=kept,
            problems=problems,
            not_done=dict(Counter(summary.failures.values()).most_common(REASONS_SHOWN)),
        )

    def with_counts_of(self, before: Self | None) -> Self:
        """With the numbers of what is in the table, which an earlier status has."""
        if before is None:
            return self
        return replace(
            self,
            run_id=before.run_id,
            rows=before.rows,
            counts=before.counts,
            reasons=before.reasons,
            masks=before.masks,
        )

    def to_json(self) -> bytes:
        """As people read it."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace") + b"\n"  # what is no text stays JSON so

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Reads what `to_json` wrote."""
        values = json.loads(text)
        values["state"] = State(values["state"])
        values["not_read"] = tuple(values["not_read"])
        values["problems"] = tuple(Problem(**each) for each in values["problems"])
        values["changed"] = {kind: tuple(names) for kind, names in values["changed"].items()}
        return cls(**values)

    def write(self, store: Store) -> None:
        """Puts it beside the labels, over an older one."""
        store.put(join_uri(self.labels, STATUS_NAME), self.to_json())


def say_what_came(summary: RunSummary, not_read: int, beside: str = "") -> str:
    """One sentence on a drop whose run has ended.

    Args:
        summary: of the run.
        not_read: files that say nothing to the line.
        beside: what there is to say of images beside lists (`Run.beside`).
    """
    answers = sum(summary.counts.get(status, 0) for status in LABELLED)
    without = sum(summary.counts.values()) - answers
    if summary.failures:
        left = f"{len(summary.failures)} of {summary.shards} parts are not labelled yet"
        why = summary.stopped or next(iter(summary.failures.values()))
        return f"{left} ({why}); what is labelled is kept, and the rest is tried again"
    said = f"labelled: {counted(answers, 'answer')} with {counted(summary.targets, 'mask')}"
    if without:
        said += f"; {counted(without, 'question')} without one, see `reasons` and `problems`"
    if denied := summary.errors.get(UNREADABLE, 0):
        said += (
            f"; {denied:,} of these because the watcher may not read the image: give it the right,"
            " or take the image away; tried again until then"
        )
    if not_read:
        said += f"; {counted(not_read, 'file')} of a kind that is not read, see `not_read`"
    if beside:
        said += f"; {beside}"
    return f"{said}. The labels are in {shown(summary.output)}"


def say_trouble(error: LineError) -> str:
    """One sentence on a drop whose output, or whose input, can't be worked with."""
    way_out = (
        " Where a file of the output is damaged, remove it: what it said is made anew of the rest."
        if isinstance(error, CommitError)
        else ""
    )
    return f"{error}.{way_out} Tried again until then; what is labelled is kept"
