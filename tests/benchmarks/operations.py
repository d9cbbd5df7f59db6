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
from statistics import fmean

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixellm.engine.engine import Engine
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
    "ours: questions",
    "ids per answer",
    "GFLOP a question",
    "official: questions",
    "its ids per answer",
    "its GFLOP a question",
    "official : ours",
    "official : image alone",
)
NOTES = (
    "Two operations per multiply-add, counted by torch's FlopCounterMode while questions of the"
    " part engine are answered, whose answers are together most nearly as long as all; the official"
    " way is asked some of ours, in one row. Norms, softmax, activations and resizing are not"
    " counted. Raw numbers are operations, not seconds.",
    "image alone: a question's share of encoding its image once, with all that the pixel decoder"
    " needs of it. In counted operations nobody who does so is further ahead of the official way"
    " than the last column; how well operations are done, it doesn't say.",
)


@dataclass(frozen=True, slots=True)
class Counted:
    """Operations of a question, at one number of instructions per image."""

    instructions: int
    ours: "Share"
    official: "Share"
    image: float
    """of encoding an image once"""


@dataclass(frozen=True, slots=True)
class Share:
    """What one of the two has answered."""

    questions: int
    ids: float
    """of an answer, on average"""
    operations: float
    """of a question"""


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
    lengths = lengths[start * instructions : (start + count) * instructions]
    # nothing is shared in the official way: a question costs as much when it is asked alone
    alone = [replace(each, questions=(question,)) for each in own for question in each.questions]
    fewer = min(workload.shares.official, len(alone))
    first = typical_start(lengths, 1, fewer)
    official = partial(answer_officially, workload.speaker, alone[first : first + fewer])
    model, image = engine.model, own[0].image
    return Counted(
        instructions,
        ours=_share_of(partial(engine.answer, own), lengths),
        official=_share_of(official, lengths[first : first + fewer]),
        image=_count(lambda: model.encode_images(image.pixels[None], [image.resized])),
    )


def _share_of(work: Callable[[], object], lengths: Sequence[int]) -> Share:
    return Share(len(lengths), fmean(lengths), _count(work) / len(lengths))


def make_table(title: str, rounds: Sequence[Counted]) -> Table:
    """What came out."""
    rows, raw = list[list[str]](), dict[str, Sequence[float]]()
    for each in rounds:
        ours, official = each.ours.operations, each.official.operations
        rows.append([f"{each.instructions}"])
        for share in (each.ours, each.official):
            values = significant(share.ids), significant(share.operations / 1e9)
            rows[-1] += [f"{share.questions}", *values]
        ratios = official / ours, official / (each.image / each.instructions)
        rows[-1] += map(significant, ratios)
        raw[f"{each.instructions} per image: ours, official, an image"] = [
            ours,
            official,
            each.image,
        ]
    return Table(f"{TITLE}{title}", COLUMNS, rows, NOTES, raw)


def _count(work: Callable[[], object]) -> float:
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        return count(work)
