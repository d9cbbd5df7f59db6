"""One evaluation, as the settings want it: where the tables lie, and where the work is done."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from workers.errors import SettingsError
from workers.labels.parts import LabelTable, open_table
from workers.scoring.evaluation import Evaluation, Spread, evaluate_tables, in_turn
from workers.scoring.join import count_buckets
from workers.scoring.report import Facts
from workers.scoring.settings import EvaluateSettings
from workers.scoring.sums import ALL
from workers.scoring.thresholds import find_missed
from workers.storage.stores import open_store
from workers.storage.uris import join_uri, shown
from workers.wording import Say


def evaluate(settings: EvaluateSettings, say: Say) -> tuple[Evaluation, Facts]:
    """Scores the tables.

    Args:
        settings: from the flags.
        say: hears of each step.

    Raises:
        SettingsError: a cluster has no folder that all its machines reach.
        ScoringError: no gold row can be compared, or a judge doesn't answer.
        CommitError: nothing has been committed, or a part of a table is damaged or gone.
        StorageError: a store failed.
        LineError: the cluster can't be reached.
    """
    gold = open_table(open_store(settings.gold), settings.gold, settings.gold_run)
    labels = open_table(open_store(settings.labels), settings.labels, settings.run)
    with _spread_for(gold, settings, say) as spread, _scratch_for(settings) as scratch:
        found = evaluate_tables(gold, labels, scratch, settings.options, spread, say)
    missed = find_missed(found.scores[ALL], settings.minimums)
    judge = f"{settings.judge_model} at {settings.judge_url}" if settings.judge_url else "words"
    return found, Facts(
        gold=shown(settings.gold),
        labels=shown(settings.labels),
        muse=settings.muse,
        judge=judge,
        minimums=settings.minimums,
        missed=tuple(missed),
    )


@contextmanager
def _spread_for(gold: LabelTable, settings: EvaluateSettings, say: Say) -> Iterator[Spread]:
    """On Ray where there is more than one bucket of work and more than one processor."""
    address = os.environ.get("RAY_ADDRESS")
    if count_buckets(gold) == 1 or not (address or (os.cpu_count() or 1) > 1):
        yield in_turn
        return
    if address and settings.scratch is None:
        raise SettingsError(
            f"--scratch is missing: on the cluster at RAY_ADDRESS={address}, a folder is needed"
            " that all machines reach, such as s3://bucket/scratch; some KB for each row are put"
            " there meanwhile"
        )
    from workers.spread import spreading  # Ray takes seconds to import

    with spreading(say) as spread:
        yield spread


@contextmanager
def _scratch_for(settings: EvaluateSettings) -> Iterator[str]:
    """A folder for this evaluation alone."""
    if settings.scratch:
        yield join_uri(settings.scratch, f"scores-{uuid.uuid4().hex}")
        return
    with tempfile.TemporaryDirectory(prefix="scores-") as folder:
        yield folder
