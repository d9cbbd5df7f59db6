"""Draws a folder of scenes, labels it with the shipped model, and shows the masks.

    python jobs/demo.py --output demo

The folder OUTPUT/bucket plays the bucket: pictures, and scenes.jsonl with what is asked about
each. It is labelled by the very command that a user types; labels, COCO and the picture sheet
go to OUTPUT/labels.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.label import main as label
from pixellm.drawn.folder import write_drawn_folder
from workers.sheets.showcase import write_sheet

PICTURES = 12
"""Enough to see all kinds of questions, and done within a minute on two cores."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code of the labelling job."""
    parser = argparse.ArgumentParser(description="Draws a folder of scenes and labels it.")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the demo")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="pictures to draw")
    parser.add_argument("--seed", type=int, default=0, help="which pictures to draw")
    options = parser.parse_args(arguments)
    bucket, labels = options.output / "bucket", options.output / "labels"
    coco = labels / "coco.json"
    write_drawn_folder(bucket, options.pictures, options.seed)
    given = ["--input", str(bucket), "--output", str(labels), "--export-coco", str(coco)]
    print(
        f"drew {options.pictures} pictures into {bucket}; now:\n\n    python jobs/label.py", *given
    )
    print(flush=True)
    code = label(given)
    if code == 0:
        print(f"\nLook at {write_sheet(str(labels.resolve()))}")
        print(f"The masks are in {labels}/labels (Parquet) and in {coco} (COCO).")
    return code


if __name__ == "__main__":
    sys.exit(main())
