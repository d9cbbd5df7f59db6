"""An evaluation -> a file for programs (JSON) and a page for people (Markdown)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from workers.markdown import escape, table
from workers.scoring.evaluation import Evaluation
from workers.scoring.metrics import ANSWERS, MASKS, METRICS, TARGETS
from workers.scoring.sums import ScoreSums
from workers.scoring.thresholds import Minimum

SCHEMA = 1
"""Of the JSON."""
MOST_GROUPS = 40
"""On the page; the JSON has all."""
_COUNTS = ("questions", "truths", "predictions", "hits")


@dataclass(frozen=True, slots=True)
class Facts:
    """What was compared, and how."""

    gold: str
    """as it may be shown"""
    labels: str
    muse: str
    judge: str
    minimums: tuple[Minimum, ...]
    missed: tuple[str, ...]
    """sentences about minimums"""


def write_json(found: Evaluation, facts: Facts) -> bytes:
    """The scores of all groups, with the sums that they are made of."""
    groups = {
        group: {"scores": dict(found.scores[group]), "sums": _plain(sums)}
        for group, sums in found.sums.items()
    }
    document = {"schema": SCHEMA, **asdict(facts), "groups": groups, "told": dict(found.told)}
    return json.dumps(document, indent=2, allow_nan=False).encode("ascii") + b"\n"


def write_markdown(found: Evaluation, facts: Facts) -> str:
    """Three tables with a line for each group, what was left out, and what the columns mean."""
    shown = list(found.sums)[:MOST_GROUPS]
    lines = [
        f"# {escape(facts.labels)} against {escape(facts.gold)}",
        "",
        *_list_minimums(facts),
        *table(["", *_COUNTS], [[escape(g), *_counts(found.sums[g])] for g in shown]),
        *_metric_tables(found, shown),
    ]
    if len(found.sums) > len(shown):
        lines += [f"and {len(found.sums) - len(shown):,} groups more, in the JSON", ""]
    lines += [f"* {count:,} {escape(what)}" for what, count in found.told.items()]
    lines += [
        *([""] if found.told else []),
        f"MUSE's protocol: {facts.muse}. Phrases are judged by {escape(facts.judge)}. A dash:"
        " nothing to take a share of.",
        "",
        *(f"* {each.title} (`{name}`): {each.meaning}" for name, each in METRICS.items()),
    ]
    return "\n".join(lines) + "\n"


def _metric_tables(found: Evaluation, groups: Sequence[str]) -> Iterable[str]:
    for kind in (MASKS, TARGETS, ANSWERS):
        names = [name for name, each in METRICS.items() if each.table == kind]
        head = [kind, *(METRICS[name].title for name in names)]
        rows = [[escape(g), *(_number(found.scores[g][name]) for name in names)] for g in groups]
        yield from table(head, rows)


def _list_minimums(facts: Facts) -> list[str]:
    if not facts.minimums:
        return []
    asked = ", ".join(f"{each}" for each in facts.minimums)
    if not facts.missed:
        return [f"All that was asked for is reached: {asked}", ""]
    return [f"Missed, of {asked}:", "", *(f"* {each}" for each in facts.missed), ""]


def _counts(sums: ScoreSums) -> list[str]:
    return [f"{getattr(sums, name):,}" for name in _COUNTS]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _plain(sums: ScoreSums) -> Mapping[str, float]:
    return {
        each.name: getattr(sums, each.name) for each in fields(sums) if each.name != "detections"
    }
