"""Results of arms, and the table that is made of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Final

from scipy import stats

from pixellm.drawn.arm_scores import ArmScores
from pixellm.drawn.arms import STUDIES
from workers.errors import CommitError
from workers.storage.objects import Store
from workers.storage.uris import join_uri

NAME: Final = "table"
"""Of the table's files, before .md and .json."""
HEAD: Final = """\
| study | setting | seeds | IoU, answers read | to the paper's | gIoU, generated | to the paper's |\
 exact |
|---|---|---|---|---|---|---|---|
"""
SELDOM: Final = 0.05
"""Share of differences as large as one that is bold, where a setting changes nothing."""
SAME: Final = 1e-9
"""Standard deviation of values that differ by rounding only."""
LEGEND: Final = """
Means over seeds ± standard deviation. *To the paper's*: the difference to the paper's setting (the
first line of each study) from the same seed, likewise; **bold** where a paired t-test over the
seeds gives p < 0.05, as chance alone does once in twenty; never where all seeds differ by the same,
of which it says nothing. *Answers read*: the mask of every target when the right answer is read,
which leaves nothing to chance but the weights. *Generated*: what the model says by itself; after so
short a training, which things it names decides more than its masks do. Its gIoU counts a right
"nothing matches" as 1, which `giou` of jobs/evaluate.py leaves out.
"""


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What came of an arm from one seed."""

    arm: str
    seed: int
    digest: str
    """of all that decided it"""
    scores: ArmScores
    core_seconds: float
    """of the process that ended it"""

    def to_json(self) -> bytes:
        """A line; the same values give the same bytes."""
        return json.dumps(asdict(self), sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> "ArmResult":
        """Reads what `to_json` wrote; `where` names the file in a message.

        Raises:
            CommitError: it is something else.
        """
        try:
            values = json.loads(data)
            return cls(**values | {"scores": ArmScores(**values["scores"])})
        except (ValueError, TypeError, KeyError) as error:
            raise CommitError(
                f"{where} is no result of an arm ({error}); delete it, and the same command makes"
                " it again"
            ) from error


def write_table(store: Store, output: str, results: Iterable[ArmResult]) -> str:
    """Writes table.md and table.json; returns the first."""
    scores: dict[str, dict[int, ArmScores]] = {}
    for result in sorted(results, key=lambda each: (each.arm, each.seed)):
        scores.setdefault(result.arm, {})[result.seed] = result.scores
    page = HEAD + "".join(f"{line}\n" for line in _lines(scores)) + LEGEND
    store.put(join_uri(output, f"{NAME}.md"), page.encode())
    values = {
        arm: {f"{seed}": asdict(each) for seed, each in found.items()}
        for arm, found in scores.items()
    }
    data = json.dumps(values, indent=2, sort_keys=True).encode() + b"\n"
    store.put(join_uri(output, f"{NAME}.json"), data)
    return page


def _lines(scores: Mapping[str, Mapping[int, ArmScores]]) -> Iterable[str]:
    for study, (own, others) in STUDIES.items():
        for arm in (own, *others):
            if arm.name in scores:
                yield _line(study, arm.name, scores[arm.name], scores.get(own.name, {}))


def _line(
    study: str, arm: str, found: Mapping[int, ArmScores], paper: Mapping[int, ArmScores]
) -> str:
    both = [] if found is paper else sorted(found.keys() & paper.keys())
    cells = [study, arm, f"{len(found)}"]
    for measure in ("read_iou", "giou"):
        own = {seed: float(getattr(each, measure)) for seed, each in found.items()}
        cells.append(spread(list(own.values())))
        cells.append(compare([own[seed] - getattr(paper[seed], measure) for seed in both]))
    cells.append(spread([each.exact for each in found.values()]))
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, as far as there are any."""
    if not values:
        return ""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def compare(differences: Sequence[float]) -> str:
    """The same with a sign; bold where chance would seldom make it as large."""
    if not differences:
        return ""
    text = f"{mean(differences):+.3f}"
    if len(differences) < 2:
        return text
    text += f" ± {stdev(differences):.3f}"
    if stdev(differences) < SAME:  # a seed that changes nothing says nothing of chance
        return text
    chance = stats.ttest_1samp(differences, 0.0).pvalue
    return f"**{text}**" if chance < SELDOM else text
