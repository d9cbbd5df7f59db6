"""What was learned, as a model folder that jobs/label.py takes.

OUTPUT/model/training.json        where it comes from
OUTPUT/model/model.safetensors    weights last: a folder without them is no model
"""

import json
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pixellm.tuning import TunedModel
from workers.labels.commits import now
from workers.storage.uris import join_uri
from workers.training.plan import TrainPlan
from workers.training.start import Bench
from workers.version import code_version

MODEL, CARD = "model", "training.json"
"""Folder of the result, and in it the file that says where it comes from."""


def write_result(
    tuned: TunedModel, plan: TrainPlan, bench: Bench, scores: Mapping[str, float] | None = None
) -> str:
    """Writes the model folder: all workers gather the weights, the first one writes.

    Args:
        tuned: what was learned.
        plan: of the run.
        bench: what this worker has at hand.
        scores: of these weights on held-out rows, and the `step` at which they were taken.

    Returns:
        Where it lies.

    Raises:
        StorageError: it could not be written.
    """
    place, whole = join_uri(plan.output, MODEL), bench.peers.whole
    if bench.peers.rank:
        deque(tuned.merged_state(whole), maxlen=0)
        return place
    with tempfile.TemporaryDirectory(prefix="train-") as name:
        folder = Path(name)
        tuned.save_merged(bench.checkpoint.tokenizer, folder, whole=whole)
        (folder / CARD).write_text(_card(plan, bench, scores), encoding="utf-8")
        for path in sorted(folder.iterdir(), key=lambda each: each.suffix == ".safetensors"):
            bench.store.put(join_uri(place, path.name), path.read_bytes())
    return place


def _card(plan: TrainPlan, bench: Bench, scores: Mapping[str, float] | None) -> str:
    card = {
        "trained_from": plan.model,
        "trained_from_sha256": bench.checkpoint.sha256,
        "plan": asdict(plan),
        "scores": scores and dict(scores),
        "finished_at": now(),
        "code_version": code_version(),
    }
    return json.dumps(card, indent=2, sort_keys=True) + "\n"
