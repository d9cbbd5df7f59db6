"""Draws a folder of scenes, labels it with the shipped model, and shows the masks.

    python jobs/demo.py --output demo

The folder OUTPUT/bucket plays the bucket: pictures, and scenes.jsonl with what is asked about
each. It is labelled and drawn by the very commands that a user types; labels, COCO and the picture
sheet go to OUTPUT/labels.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.export import main as export
from jobs.label import main as label
from pixellm.drawn.folder import write_drawn_folder

PICTURES = 12
"""Enough to see all kinds of questions, and done within a minute on two cores."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code of the job that failed, or 0."""
    options = _read_flags(arguments)
    folder = from_here(options.output)
    bucket, labels = folder / "bucket", folder / "labels"
    sheet, coco = labels / "sheet.png", labels / "coco.json"
    write_drawn_folder(bucket, options.pictures, options.seed)
    print(f"drew {options.pictures} pictures into {bucket}; now:")
    given = ["--input", str(bucket), "--output", str(labels), "--export-coco", str(coco)]
    _show_command("jobs/label.py", given)
    if code := label(given):
        return code
    given = ["--labels", str(labels), "--to", "sheet", "--output", str(sheet)]
    _show_command("jobs/export.py", given)
    if code := export(given):
        return code
    print(
        f"\nLook first at {sheet}: the pictures, with masks and phrases."
        f"\nThen at {labels / 'labels'}: the label table (Parquet), a row for each question."
        f"\nThen at {coco}: the same masks for tools that read COCO."
    )
    return 0


def from_here(path: Path) -> Path:
    """The path as it is typed here: relative when it lies below, else absolute."""
    here, place = Path.cwd(), path.absolute()
    return place.relative_to(here) if place.is_relative_to(here) else place


def _read_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python jobs/demo.py",
        description="Draws a folder of scenes, labels it with the shipped model, shows the masks.",
    )
    add = parser.add_argument
    add(
        "--output",
        metavar="FOLDER",
        type=Path,
        default=Path("demo"),
        help="folder of the demo (default: %(default)s)",
    )
    add(
        "--pictures",
        metavar="NUMBER",
        type=_read_count,
        default=PICTURES,
        help="how many are drawn (default: %(default)s)",
    )
    add(
        "--seed",
        metavar="NUMBER",
        type=int,
        default=0,
        help="another number draws other pictures (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _read_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _show_command(job: str, given: Sequence[str]) -> None:
    print("\n    python", job, *given, end="\n\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
