"""The scores of a run so far as a small curve (SVG), for a page."""

from collections.abc import Sequence

from workers.training.evaluation import Choice, Graded, title

WIDTH, HEIGHT, MARGIN = 640, 150, 28
"""In pixels; the margin holds the numbers."""


def draw_curve(history: Sequence[Graded], choice: Choice) -> str:
    """Draws one score over the steps, from 0 up; nothing where there are fewer than two.

    Args:
        history: in the order of the steps.
        choice: which score; gIoU where the last weights count.
    """
    name = "giou" if choice == "last" else choice
    points = [(each.step, each.scores[name]) for each in history if name in each.scores]
    if len(points) < 2:
        return ""
    last = points[-1][0]
    top = max(max(value for _, value in points), 1e-9)
    places = [
        (MARGIN + (WIDTH - 2 * MARGIN) * step / last, HEIGHT - MARGIN - _up(value / top))
        for step, value in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#1877f2">'
        f"<title>step {step:,}: {value:.3f}</title></circle>"
        for (x, y), (step, value) in zip(places, points, strict=True)
    )
    foot = HEIGHT - MARGIN
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' style="max-width: 100%" font-size="12" fill="#68707e">'
        f'<path d="M{MARGIN} {foot}H{WIDTH - MARGIN}" stroke="#d9dde4"/>'
        f'<polyline points="{line}" fill="none" stroke="#1877f2" stroke-width="2"/>{dots}'
        f'<text x="{MARGIN}" y="14">{title(name)}, at most {top:.3f}</text>'
        f'<text x="{MARGIN}" y="{HEIGHT - 8}">step 0</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 8}" text-anchor="end">{last:,}</text></svg>'
    )


def _up(share: float) -> float:
    return (HEIGHT - 2 * MARGIN) * share
