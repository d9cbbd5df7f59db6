"""Words, numbers and colours of a picture sheet, drawn with Pillow alone."""

import functools

from PIL import ImageDraw, ImageFont

Rgb = tuple[int, int, int]

COLOURS: tuple[Rgb, ...] = (
    (233, 55, 75),
    (24, 119, 242),
    (250, 176, 5),
    (18, 164, 98),
    (142, 68, 225),
    (253, 126, 20),
    (16, 184, 200),
    (232, 62, 160),
)
"""Of the targets, in turn; told apart on photos, also by most who see colours differently."""

INK: Rgb = (24, 28, 36)
PALE: Rgb = (104, 112, 126)
PAPER: Rgb = (255, 255, 255)
BADGE_RADIUS = 9
"""Of the disc behind a target's number, in pixels."""
MAX_CHARS = 300
"""Of one text; the table holds the whole of it."""
_NUMBER_SIZE = 12
_LEADING = 1.3  # distance of lines, in sizes of the font


def write_text(
    draw: ImageDraw.ImageDraw, line_box: tuple[int, int, int], text: str, size: int, ink: Rgb
) -> int:
    """Writes wrapped text.

    Args:
        draw: where to.
        line_box: left and top of the first line, and the width of all, in pixels.
        text: MAX_CHARS of it are written.
        size: of the font, in pixels.
        ink: its colour.

    Returns:
        The y of its lower edge.
    """
    left, top, width = line_box
    kept = text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}..."
    font = pick_font(size, kept)
    for line in _wrap(draw, kept, font, width):
        draw.text((left, top), line, ink, font)
        top += round(size * _LEADING)
    return top


def _wrap(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int
) -> list[str]:
    """Breaks at spaces, and inside a word only where it is wider than the line."""
    lines, line = list[str](), ""
    for word in text.split():
        joined = f"{line} {word}".strip()
        if draw.textlength(joined, font) <= width:
            line = joined
            continue
        lines += [line] if line else []
        line = word
        while draw.textlength(line, font) > width:
            cut = next(
                n
                for n in range(len(line), 0, -1)
                if n == 1 or draw.textlength(line[:n], font) <= width
            )
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line] if line else lines


def draw_badge(draw: ImageDraw.ImageDraw, centre: tuple[int, int], index: int) -> None:
    """Draws the number of a target, counted from 1, on a disc of its colour."""
    x, y = centre
    box = (x - BADGE_RADIUS, y - BADGE_RADIUS, x + BADGE_RADIUS, y + BADGE_RADIUS)
    draw.ellipse(box, pick_colour(index), PAPER, 1)
    draw.text(centre, f"{index + 1}", PAPER, pick_font(_NUMBER_SIZE), anchor="mm")


def pick_colour(index: int) -> Rgb:
    """The colour of a target, counted from 0."""
    return COLOURS[index % len(COLOURS)]


def pick_font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """Pillow's own font, the same on every machine; it has Latin letters only."""
    return _load_font(size, text.isascii())


@functools.cache
def _load_font(size: int, is_latin: bool) -> ImageFont.FreeTypeFont:
    if not is_latin:
        try:
            return ImageFont.truetype("DejaVuSans.ttf", size)
        except OSError:  # not on this machine: what the font has no letter for becomes a box
            pass
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # a size was given, so it is
    return font
