"""What the README says about learning from real photos, from the outcomes of `tests.domains`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "domain_results"
"""NAME.json as `tests.domains` wrote it, NAME.png (its sheet), SOURCES.md (whose photos)"""


def domains() -> str:
    """A table with a row for each domain, and below it the sheets."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))
    ]
    return "\n".join([*table(found), "", *_pictures(found)]) + "\n"


def table(outcomes: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The lines of a Markdown table of outcomes."""
    yield (
        "| domain | a mask for each | photos learned from : scored | CPU minutes |"
        " gIoU, a question's masks as one | gIoU, mask by mask | F1 of targets |"
    )
    yield "|---|---|---|---|---|---|---|"
    for each in outcomes:
        learned, scored = each["photos"]
        shifts = (_shift(each, metric) for metric in ("giou_union", "giou", "f1"))
        split, minutes = f"{learned} : {scored}", f"{each['cpu_minutes']:.0f}"
        cells = [each["domain"], each["mask_of"], split, minutes, *shifts]
        yield f"| {' | '.join(cells)} |"


def _shift(outcome: dict[str, Any], metric: str) -> str:
    return f"{outcome['before'][metric]:.3f} → {outcome['after'][metric]:.3f}"


def _pictures(outcomes: Iterable[dict[str, Any]]) -> Iterator[str]:
    names = [each["domain"] for each in outcomes]
    links = [f"[{name}](tests/domain_results/{name}.png)" for name in names if _has_sheet(name)]
    if links:
        yield f"Held-out photos with the masks of the fine-tuned models: {', '.join(links)};"
        yield "whose photos these are: [SOURCES.md](tests/domain_results/SOURCES.md)."


def _has_sheet(name: str) -> bool:
    return (RESULTS / f"{name}.png").exists()
