"""What stands in for the line in tests of a watcher, and what its labels are held against."""

import io
from pathlib import Path

from tests.here import label_runs_here, replicas_here
from workers.driver import label_runs
from workers.labels.manifests import current_commits
from workers.labels.parts import read_rows
from workers.labels.schema import LabelRow
from workers.progress import Progress
from workers.runs import plan_run
from workers.stopping import Stop
from workers.storage.stores import Anywhere
from workers.summaries import ShardSummary


def never(*_):
    raise AssertionError("there is nothing to label")


def snapshot(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def broken(runs, progress, stop):
    """Label nothing, since every shard fails."""

    def replicas(errands, settings, begin, progress, stop):
        for each in errands:
            yield ShardSummary(*each.key, error="the bucket burns")

    return label_runs(runs, progress, stop, replicas)


def half(runs, progress, stop):
    """Labels one shard, and is asked to end."""

    def replicas(errands, settings, begin, progress, stop):
        for summary in replicas_here(errands, settings, begin, progress, stop):
            yield summary
            stop.ask("asked to end")

    return label_runs(runs, progress, stop, replicas)


def by_image(rows: list[LabelRow]) -> list[LabelRow]:
    return sorted(rows, key=lambda row: row.image_uri)


def undisturbed(place, folder: Path) -> list[LabelRow]:
    """The rows of a labelling run over what is in a folder now."""
    output = str(place.output / "alone")
    settings = place.settings().model_copy(update={"input": str(folder), "output": output})
    list(label_runs_here([plan_run(settings, lambda _: None)], Progress(io.StringIO()), Stop()))
    return list(read_rows(Anywhere(), output, current_commits(Anywhere(), output)))
