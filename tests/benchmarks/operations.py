"""The part `operations`: how much arithmetic the official way and our engine do, counted.

What is counted is what runs: answers to the questions of the part `engine`, with torch's
FlopCounterMode around them (products of matrices, convolutions and attention, two operations per
multiply-add; attention by its plain formula, since the counter doesn't know torch's own for a CPU).
It says what is to be had: whoever does ten times the arithmetic of another is ten times as slow
where both do it equally well.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from tests.benchmarks.baselines import answer_officially
from tests.benchmarks.engine import choose_workloads, make_engine, typical_start
from tests.benchmarks.flops import count
from tests.benchmarks.inputs import Workload
from tests.benchmarks.options import Options
from tests.benchmarks.report import Table
from tests.benchmarks.timing import say, significant

TITLE = "Operations counted, official way and ours: "
COLUMNS = (
    "instructions per image",
    "questions",
    "ours, GFLOP a question",
    "official, GFLOP a question",
    "official : ours",
    "official : image alone",
)
NOTES = (
    "Two operations per multiply-add, counted by torch's FlopCounterMode while questions of the"
    " part engine are answered, whose answers are together most nearly as long as all. Raw numbers"
    " are operations, not seconds.",
    "image alone: what an engine would do a question, for which all but encoding each image once"
    " cost nothing. So the last column is more than any can reach by doing less.",
)


@dataclass(frozen=True, slots=True)
class Counted:
    """Operations of a question, at one number of instructions per image."""

    instructions: int
    questions: int
    """of ours; the official way may have answered fewer of them"""
    ours: float
    official: float
    image: float
    """of encoding an image once"""


def run(options: Options) -> Iterator[Table]:
    """A table for each workload."""
    for workload in choose_workloads(options):
        engine = make_engine(workload)
        say(f"{workload.title}: counting")
        counts = (count_round(workload, engine, each) for each in workload.rounds)
        yield make_table(workload.title, list(counts))


def count_round(workload: Workload, engine: Engine, instructions: int) -> Counted:
    """Has some typical questions answered both ways."""
    samples = workload.rounds[instructions]
    lengths = [len(each.token_ids) for own in engine.answer(samples) for each in own]
    count = min(-(-workload.shares.official // instructions), len(samples))
    start = typical_start(lengths, instructions, count)
    own = samples[start : start + count]
    # nothing is shared in the official way: some questions of a sample cost as much each as all
    fewer = shorten(own, workload.shares.official)
    model, image = engine.model, own[0].image
    official = partial(answer_officially, workload.speaker, fewer)
    return Counted(
        instructions,
        count_questions(own),
        ours=_count(partial(engine.answer, own)) / count_questions(own),
        official=_count(official) / count_questions(fewer),
        image=_count(lambda: model.encode_images(image.pixels[None], [image.resized])),
    )


def count_questions(samples: Sequence[Sample]) -> int:
    """Of all samples together."""
    return sum(len(each.questions) for each in samples)


def shorten(samples: Sequence[Sample], most: int) -> list[Sample]:
    """The first questions, no more than `most`, with as many of each sample as of the others."""
    each = max(1, most // len(samples))
    return [replace(sample, questions=sample.questions[:each]) for sample in samples]


def make_table(title: str, rounds: Sequence[Counted]) -> Table:
    """What came out."""
    rows, raw = list[list[str]](), dict[str, Sequence[float]]()
    for each in rounds:
        shares = (each.official / each.ours, each.official / (each.image / each.instructions))
        gigas = (each.ours / 1e9, each.official / 1e9)
        counts = (f"{each.instructions}", f"{each.questions}")
        rows.append([*counts, *map(significant, (*gigas, *shares))])
        raw[f"{each.instructions} per image: ours, official, an image"] = [
            each.ours,
            each.official,
            each.image,
        ]
    return Table(f"{TITLE}{title}", COLUMNS, rows, NOTES, raw)


def _count(work: Callable[[], object]) -> float:
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        return count(work)
