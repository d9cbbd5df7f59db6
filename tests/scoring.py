"""Gold and predicted rows with masks that can be counted by hand: boxes on a picture of 10 x 10."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from pixellm.run_lengths import RunMask
from tests.labels import ATTEMPT, MADE_BY, make_answer, make_record
from workers.labels.commits import Ledger
from workers.labels.parts import LabelTable
from workers.labels.rows import Attempt, Provenance, answer_row, failed_rows
from workers.labels.schema import LabelRow
from workers.labels.table import PartIdentity, write_part
from workers.labels.targets import IGNORE_REGION
from workers.records.instructions import make_instruction
from workers.records.pictures import PictureFacts
from workers.scoring.entries import make_entry
from workers.scoring.evaluation import Evaluation, evaluate_tables
from workers.scoring.measures import Question, make_question
from workers.scoring.options import ScoringOptions
from workers.storage.stores import open_store

SIDE = 10


def box(left, top, right, bottom, side=SIDE) -> np.ndarray:
    """A mask of (right - left) * (bottom - top) pixels."""
    mask = np.zeros((side, side), bool)
    mask[top:bottom, left:right] = True
    return mask


def runs(*masks) -> list[RunMask]:
    return [RunMask.from_pixels(mask) for mask in masks]


def row(
    masks: Sequence[np.ndarray] = (),
    phrases=None,
    scores=None,
    *,
    image="picture",
    text="what is there?",
    kind="unspecified",
    ignored: Sequence[np.ndarray] = (),
    attempt: Attempt = ATTEMPT,
    truncated=False,
) -> LabelRow:
    """An answer; the masks in `ignored` come after the others, with their flag."""
    shape = [*masks, *ignored, np.zeros((SIDE, SIDE))][0].shape
    instruction = replace(make_instruction(text), kind=kind)
    facts = PictureFacts(sha256(image.encode()).hexdigest(), shape[1], shape[0], 1)
    names = phrases and [*phrases, *[None] * len(ignored)]
    worths = scores and [*scores, *[0.0] * len(ignored)]
    answer = make_answer([*masks, *ignored], names, worths, truncated=truncated)
    made = answer_row(make_record("a.jpg", instruction), facts, answer, attempt, 1.0)
    targets = tuple(
        replace(each, flags=(IGNORE_REGION,)) if number >= len(masks) else each
        for number, each in enumerate(made.targets)
    )
    return replace(made, targets=targets)


def failed(*, image="picture", text="what is there?") -> LabelRow:
    facts = PictureFacts(sha256(image.encode()).hexdigest(), SIDE, SIDE, 1)
    record = make_record("a.jpg", make_instruction(text))
    (made,) = failed_rows(record, "no memory", ATTEMPT, facts)
    return made


def question(gold: LabelRow, said: LabelRow | None) -> Question:
    return make_question(make_entry(gold), make_entry(said) if said else None)


def put_table(store, output, *parts, made_by: Provenance = MADE_BY) -> LabelTable:
    commits = []
    for number, rows in enumerate(parts):
        shard_id, fingerprint = f"{number:020}", made_by.label_fingerprint
        part = write_part(rows, PartIdentity(made_by.run_id, shard_id, fingerprint))
        ledger = Ledger(store, output, made_by.run_id)
        commits.append(
            ledger.commit(shard_id, part, fingerprint=fingerprint, source="in", source_etag="e")[0]
        )
    return LabelTable(store, output, commits)


def evaluate(gold, said, options: ScoringOptions | None = None, **more) -> Evaluation:
    """Scores rows; they are written into parts and read again."""
    store = open_store("mem://scoring")
    scratch = "mem://scoring/scratch"
    try:
        return evaluate_tables(
            put_table(store, "mem://scoring/gold", gold),
            put_table(store, "mem://scoring/said", said),
            scratch,
            options,
            **more,
        )
    finally:
        assert not list(store.list(scratch))
        for info in list(store.list("mem://scoring")):
            store.delete(info.uri)
