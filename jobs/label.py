"""Labels the images under a prefix: a table of masks (Parquet), and COCO if asked for.

    python jobs/label.py --input photos --output labels --instruction "mugs one could drink from"
    ray job submit --working-dir . -- python jobs/label.py --input s3://b/in --output s3://b/out

A second start of the same command finishes what is left, and does nothing when all is done.
Exit code 0: all is committed. 1: shards failed, or the run broke off. 2: a setting or the input is
wrong, and nothing was begun. 3: ended early on purpose (--deadline, --max-gpu-hours, SIGTERM).
130: stopped by Ctrl-C. 143: asked to end by SIGTERM, and not through some seconds after
--grace-seconds, for a store hangs, say. What was committed is always kept.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pixellm.errors import PixelLMError
from workers.errors import OutputUnwritable, SettingsError
from workers.exit_codes import KEPT, end
from workers.progress import Progress
from workers.settings import LabelSettings
from workers.storage.uris import shown

if TYPE_CHECKING:
    from workers.runs import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one labelling job; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    progress = Progress()
    work = partial(_work, given, progress)
    return end(work, progress.say, progress.complain, wrong=(PixelLMError,), interrupted=KEPT)


def _work(given: Sequence[str], progress: Progress) -> int:
    settings = LabelSettings.from_everywhere(given, "python jobs/label.py")
    if settings.log_format == "json":
        progress.speak_json()
    # Only once the flags are known to be right: torch takes seconds to import.
    progress.say(f"getting ready to label {shown(settings.input)}")
    from workers.hardware import settle_hardware
    from workers.runs import describe_plan, plan_run

    run = plan_run(settle_hardware(settings), progress.say)
    progress.about(run.ledger.run_id)
    if settings.dry_run:
        print(describe_plan(run))
        return 0
    begun = partial(_label, run, progress)  # from now on, what goes wrong is seldom a setting
    wrong = (SettingsError, OutputUnwritable)
    return end(begun, progress.say, progress.complain, wrong=wrong, interrupted=KEPT)


def _label(run: "Run", progress: Progress) -> int:
    from workers.driver import label_run
    from workers.piloting.estimate import Estimate, compare
    from workers.stopping import ended_by_sigterm

    stop = run.settings.make_stop()
    with ended_by_sigterm(stop):
        summary = label_run(run, progress, stop)
    progress.conclude(summary)
    estimate = Estimate.load(run.ledger.store, run.ledger.output, run.ledger.run_id)
    if estimate and (said := compare(estimate, summary)):
        progress.tell("plan", said)
    if run.beside:
        progress.tell("beside", run.beside)
    if run.settings.export_coco and summary.exit_code == 0:
        progress.tell("coco", _export(run, run.settings.export_coco))
    return summary.exit_code


def _export(run: "Run", uri: str) -> str:
    from workers.exports.formats import export_run

    ledger = run.ledger
    written = export_run("coco", ledger.store, ledger.output, ledger.run_id, uri)
    return f"{shown(uri)} ({written.images:,} images, {written.masks:,} masks)"


if __name__ == "__main__":
    sys.exit(main())
