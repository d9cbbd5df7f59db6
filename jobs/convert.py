"""Imports labels that people made, in the forms of other tools, into a label table.

    python jobs/convert.py --from muse --input MUSE_train.json --images coco --output gold
    python jobs/convert.py --from reasonseg --input ReasonSeg/val --output s3://bucket/gold

A second start of the same command finishes what is left, and does nothing when all is done.
Exit code 0: all is committed. 1: it broke off, what was committed is kept. 2: a setting or the
input is wrong. 130: stopped by Ctrl-C.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from workers.errors import PlanError, SettingsError
from workers.exit_codes import end, speaker
from workers.imports.settings import ConvertSettings
from workers.storage.uris import shown

if TYPE_CHECKING:
    from workers.imports.convert import ConvertSummary

_say = speaker("convert")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one import; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    interrupted = "stopped; what is committed is kept, the same command does the rest"
    return end(
        partial(_work, given), _say, wrong=(SettingsError, PlanError), interrupted=interrupted
    )


def _work(given: Sequence[str]) -> int:
    settings = ConvertSettings.from_flags(given, "python jobs/convert.py")
    from workers.imports.convert import convert
    from workers.imports.plan import plan_conversion

    print(_describe(convert(plan_conversion(settings), _say)))
    return 0


def _describe(summary: "ConvertSummary") -> str:
    """The table at the end."""
    reasons = sorted(summary.errors.items(), key=lambda each: (-each[1], each[0]))
    entries = "" if summary.entries is None else f", of {summary.entries:,} entries"
    regions = f", with {summary.regions:,} regions to ignore in the parts of this start"
    lines = [
        f"run        {summary.run_id}",
        f"parts      {summary.parts:,} committed, {summary.found_committed:,} of them before this"
        " start",
        f"rows       {summary.rows:,}{entries}",
        *(f"  {status:<15}{count:>10,}" for status, count in sorted(summary.counts.items())),
        *(
            f"    {code:<21}{count:>10,}{_example(summary.examples.get(code))}"
            for code, count in reasons
        ),
        *(f"left out   {count:,} {why}" for why, count in sorted(summary.left_out.items())),
        f"masks      {summary.targets:,}{regions if summary.regions else ''}",
        f"labels     {shown(summary.output)}",
    ]
    if reasons:
        lines.append("The column error_message says of each rejected row what was wrong with it.")
    return "\n".join(lines)


def _example(message: str | None) -> str:
    return f"  for one: {message}" if message else ""


if __name__ == "__main__":
    sys.exit(main())
