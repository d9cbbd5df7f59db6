"""Writes a label table in the forms of other tools, COCO first, or as a picture to look at.

    python jobs/export.py --labels s3://bucket/out --to coco --output coco.json
    python jobs/export.py --labels s3://bucket/out --to sheet --output sheet.png --cards 24
    python jobs/export.py --labels s3://bucket/out --to muse --output muse.json

Exit code 0: written and found sound. 1: could not be written, with the reason. 2: a bad setting.
130: stopped by Ctrl-C.
"""

import sys
from collections.abc import Sequence
from functools import partial

from workers.exit_codes import end, speaker
from workers.exports.categories import read_categories
from workers.exports.formats import FORMATS, export_run
from workers.exports.selection import ExportOptions, ExportSummary
from workers.exports.settings import ExportSettings
from workers.storage.stores import open_store
from workers.storage.uris import shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one export; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return end(partial(_work, given), speaker("export"))


def _work(given: Sequence[str]) -> int:
    settings = ExportSettings.from_flags(given, "python jobs/export.py")
    print(_describe(_export(settings), settings))
    return 0


def _export(settings: ExportSettings) -> ExportSummary:
    options = ExportOptions(
        segmentation=settings.segmentation,
        categories=read_categories(settings.categories),
        min_score=settings.min_score,
        cards=settings.cards,
    )
    labels = settings.labels
    return export_run(
        settings.to, open_store(labels), labels, settings.run, settings.output, options
    )


def _describe(summary: ExportSummary, settings: ExportSettings) -> str:
    counts = {"images": summary.images, "masks": summary.masks, **summary.others}
    held = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    checker = FORMATS[settings.to].checker
    lines = [f"wrote {shown(settings.output)}: {held}; checked with {checker}"]
    lines += [f"left out: {count:,} {reason}" for reason, count in summary.left_out.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
