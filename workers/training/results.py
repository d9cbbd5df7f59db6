"""What was learned, as a folder that jobs/label.py takes: a whole model, or an adapter.

    OUTPUT/model      README.md, training.json, config.json, tokenizer.model ...   1
                      model.safetensors                                            2
    OUTPUT/adapter    README.md, training.json, adapter_model.safetensors, light   1
                      adapter_config.json                                          2

What is put last makes the folder what it is: killed before, it is no model, and no adapter.
"""

import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import fmean

from pixellm.adapter_folder import CONFIG_FILE
from pixellm.tuning import TunedModel
from workers.labels.commits import now
from workers.storage.folders import put_folder
from workers.storage.objects import Store
from workers.storage.uris import join_uri
from workers.training.card import CARD_FILE, write_card
from workers.training.evaluation import Graded
from workers.training.metrics import METRICS
from workers.training.plan import TrainPlan
from workers.training.progress import Progress
from workers.training.record import RECORD_FILE, TrainingRecord, trace_lineage
from workers.training.start import Bench
from workers.version import code_version

LOSS_STEPS = 50
"""Whose losses are averaged for the page: those of a single step are mostly chance."""

_LAST: Mapping[str, Callable[[str], bool]] = {
    "merged": lambda name: name.endswith(".safetensors"),
    "adapter": lambda name: name == CONFIG_FILE,
}
"""By result, the files by which a folder counts."""


def write_result(
    tuned: TunedModel, plan: TrainPlan, bench: Bench, graded: Graded | None = None
) -> str:
    """Writes the folder: all workers gather the weights, the first one writes.

    Args:
        tuned: what was learned.
        plan: of the run.
        bench: what this worker has at hand.
        graded: scores of these weights on images that were not learned from, if there are any.

    Returns:
        Where it lies.

    Raises:
        StorageError: it could not be written.
    """
    place, whole = join_uri(plan.output, plan.result_folder), bench.peers.whole
    if bench.peers.rank:
        asked = tuned.learned_state if plan.result == "adapter" else tuned.merged_state
        deque(asked(whole), maxlen=0)
        return place
    with tempfile.TemporaryDirectory(prefix="train-") as name:
        folder = Path(name)
        if plan.result == "adapter":
            tuned.save_adapter(folder, whole)
        else:
            tuned.save_merged(bench.checkpoint.tokenizer, folder, whole=whole)
        record = _sum_up(plan, bench, graded)
        (folder / RECORD_FILE).write_text(record.to_json(), encoding="utf-8")
        (folder / CARD_FILE).write_text(write_card(record), encoding="utf-8")
        put_folder(folder, place, bench.store, last=_LAST[plan.result])
    return place


def _sum_up(plan: TrainPlan, bench: Bench, graded: Graded | None) -> TrainingRecord:
    """The record, from what the states and the metrics of the run say."""
    progress = Progress.from_json(bench.states.newest_rest())
    recent = list(_recent_losses(bench.store, plan.output))
    return TrainingRecord(
        plan=plan,
        lineage=trace_lineage(plan.model, bench.checkpoint.sha256, bench.folder),
        steps=progress.step,
        examples=progress.step * progress.data.batch_rows,
        passed_over=progress.passed_over,
        runs=progress.data.runs,
        losses=_mean_of(recent),
        loss_steps=len(recent),
        graded=graded,
        finished_at=now(),
        code_version=code_version(),
    )


def _recent_losses(store: Store, output: str) -> Iterator[Mapping[str, float]]:
    """Of the last steps, the newest first."""
    files = [info.uri for info in store.list(join_uri(output, METRICS))]
    seen = set[int]()
    for uri in reversed(files):
        for line in reversed(store.get(uri).splitlines()):
            step, losses = _read_losses(line)
            if losses and len(seen) < LOSS_STEPS and step not in seen:
                seen.add(step)
                yield losses
        if len(seen) == LOSS_STEPS:
            return


def _read_losses(line: bytes) -> tuple[int, Mapping[str, float]]:
    """Of a step; none where a line is about something else, or not ours: a page can do without."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        values = json.loads(line)
        return int(values["step"]), {name: float(each) for name, each in values["losses"].items()}
    return 0, {}


def _mean_of(losses: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    losses = list(losses)
    return {name: fmean(each[name] for each in losses) for name in losses[0]} if losses else {}
