"""Labels a random part of an input, and says what all of it will take: records, hours and money.

    python jobs/plan.py --input s3://bucket/in --output s3://bucket/labels --instruction "the mugs"

The pilot is committed like all else, and jobs/label.py with the same settings goes on with it.
Exit code 0: the table is printed. 1: the pilot failed or says nothing. 2: a setting or the input is
wrong. 130: stopped by Ctrl-C; what was committed is kept.
"""

import sys
from collections.abc import Sequence
from functools import partial

from workers.errors import PlanError, SettingsError
from workers.exit_codes import KEPT, end
from workers.piloting.progress import PilotProgress
from workers.piloting.settings import PlanSettings
from workers.storage.uris import shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes one pilot; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    progress = PilotProgress()
    work, wrong = partial(_work, given, progress), (SettingsError, PlanError)
    return end(work, progress.say, progress.complain, wrong=wrong, interrupted=KEPT)


def _work(given: Sequence[str], progress: PilotProgress) -> int:
    settings = PlanSettings.from_everywhere(given, "python jobs/plan.py")
    if settings.log_format == "json":
        progress.speak_json()
    # Only once the flags are known to be right: torch takes seconds to import.
    from workers.hardware import settle_hardware
    from workers.piloting.estimate import describe_estimate
    from workers.piloting.pilot import make_pilot
    from workers.runs import plan_run
    from workers.stopping import ended_by_sigterm

    settings = settle_hardware(settings)
    run = plan_run(settings, progress.say)
    progress.about(run.ledger.run_id)
    if not run.todo:
        print(f"nothing is left to do: all is committed under {shown(settings.output)}")
        return 0
    stop = settings.make_stop()
    with ended_by_sigterm(stop):
        estimate = make_pilot(run, settings, progress, stop)
    print(describe_estimate(estimate, settings.price_per_gpu_hour, settings.price_per_cpu_hour))
    return 0


if __name__ == "__main__":
    sys.exit(main())
