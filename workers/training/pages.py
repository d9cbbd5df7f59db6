"""A page of sample predictions: what is right beside what the model says, to look at.

    OUTPUT/pages/000000500.html    after that step: scores, their curve, a dozen rows

One file with its pictures in it, that opens wherever it is copied to. All that a table or a model
says is escaped.
"""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
import numpy.typing as npt

from workers.labels.schema import LabelRow
from workers.labels.targets import is_region
from workers.scoring.metrics import METRICS
from workers.sheets.sheet import draw_photo, fit_photo, make_card
from workers.sheets.text import pick_colour
from workers.training.curves import draw_curve
from workers.training.evaluation import LOSS, REPORTED, Evaluation, Graded, describe_best, title

PAGES = "pages"
"""Folder of the output."""
PAGE_ROWS = 12
"""Rows of a page: some 0.6 MB."""
MOST_CHARS = 600
"""Of a question or an answer; a model that has learned little may write on and on."""
_QUALITY = 85  # of JPEG
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #181c24; background: #f7f8fa; margin: 0 }
main { max-width: 880px; margin: 0 auto; padding: 24px 16px }
h1 { font-size: 22px; margin: 0 0 4px } p { margin: 4px 0 } .pale { color: #68707e }
table { border-collapse: collapse; margin: 12px 0; background: #fff }
td, th { border: 1px solid #d9dde4; padding: 3px 10px; text-align: left; font-weight: normal }
td.number { text-align: right; font-variant-numeric: tabular-nums }
section { background: #fff; border: 1px solid #d9dde4; margin: 18px 0; padding: 14px 16px }
section h2 { font-size: 16px; margin: 0 0 8px; overflow-wrap: anywhere }
.sides { display: flex; flex-wrap: wrap; gap: 16px } .sides > div { flex: 1 1 300px; min-width: 0 }
.sides h3 { font-size: 13px; margin: 0 0 4px; color: #68707e; font-weight: normal }
.sides p { overflow-wrap: anywhere } img { max-width: 100%; height: auto; display: block }
.badge { display: inline-block; min-width: 18px; border-radius: 9px; color: #fff; font-size: 12px;
         line-height: 18px; text-align: center; margin: 2px 4px 0 0 }
"""


@dataclass(frozen=True, slots=True)
class Side:
    """One answer."""

    text: str
    photo: bytes
    """a JPEG, with the masks over it"""
    phrases: tuple[str, ...]
    """of the masks"""


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row of a page."""

    item_id: str
    question: str
    right: Side
    said: Side
    iou: float | None
    """mean over its pairs of masks"""


def show_row(
    gold: LabelRow, said: LabelRow | None, rgb: npt.NDArray[np.uint8], iou: float | None
) -> ShownRow:
    """Takes from a row what a page shows of it.

    Args:
        gold: what is right.
        said: what the model says; None where it has no answer.
        rgb: (h, w, 3) the picture, upright.
        iou: of the row.
    """
    photo = fit_photo(rgb)
    nothing = replace(gold, targets=(), answer_text="")
    return ShownRow(
        gold.item_id,
        gold.instruction,
        _make_side(gold, photo),
        _make_side(said or nothing, photo),
        iou,
    )


def write_page(
    seen: Evaluation, steps: int, rows: Sequence[ShownRow], history: Sequence[Graded]
) -> bytes:
    """Writes the page of one evaluation.

    Args:
        seen: its scores.
        steps: of the whole run.
        rows: in the order in which they are shown.
        history: all evaluations so far, this one last.
    """
    head = f"Step {seen.step:,} of {steps:,}"
    parts = [
        f"<h1>{head}</h1>",
        f'<p class="pale">{seen.questions:,} questions, the same at every evaluation, in'
        f" {seen.seconds:.0f} s; {escape(describe_best(seen))}</p>",
        _write_scores(seen),
        draw_curve(history, seen.choice),
        _link_back(history),
        *map(_write_row, rows),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{head}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    ).encode()


def page_name(step: int) -> str:
    """Of the page of a step, in its folder."""
    return f"{step:09d}.html"


def _make_side(row: LabelRow, photo: npt.NDArray[np.uint8]) -> Side:
    targets = tuple(each for each in row.targets if not is_region(each))
    card = make_card(replace(row, targets=targets), photo)
    file = io.BytesIO()
    draw_photo(card).save(file, format="JPEG", quality=_QUALITY)
    return Side(row.answer_text or "", file.getvalue(), tuple(each.phrase for each in card.targets))


def _write_scores(seen: Evaluation) -> str:
    lines = []
    for name in (*REPORTED, LOSS):
        if name in seen.scores:
            meaning = METRICS[name].meaning if name in METRICS else "as in training; less is better"
            cells = f'<td class="number">{seen.scores[name]:.3f}</td>'
            lines.append(
                f"<tr><th>{escape(title(name))}</th>{cells}"
                f'<td class="pale">{escape(meaning)}</td></tr>'
            )
    return f"<table>{''.join(lines)}</table>"


def _link_back(history: Sequence[Graded]) -> str:
    if len(history) < 2:
        return ""
    before = history[-2].step
    return f'<p><a href="{page_name(before)}">the evaluation before, at step {before:,}</a></p>'


def _write_row(row: ShownRow) -> str:
    iou = "IoU not known" if row.iou is None else f"IoU {row.iou:.2f}"
    return (
        f"<section><h2>{_shorten(row.question)}</h2><p>{iou}</p>"
        f'<div class="sides">{_write_side("right", row.right)}{_write_side("the model", row.said)}'
        "</div></section>"
    )


def _write_side(name: str, side: Side) -> str:
    picture = b64encode(side.photo).decode()
    names = "".join(
        f'<div><span class="badge" style="background: rgb{pick_colour(at)}">{at + 1}</span>'
        f"{escape(phrase or '(no phrase)')}</div>"
        for at, phrase in enumerate(side.phrases)
    )
    return (
        f'<div><h3>{name}</h3><img alt="{name}" src="data:image/jpeg;base64,{picture}">'
        f"<p>{_shorten(side.text) or '(no answer)'}</p>{names}</div>"
    )


def _shorten(text: str) -> str:
    return escape(text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]}...")
