"""Says what would keep a labelling job from working here, and what to do about it.

    python jobs/doctor.py --input s3://bucket/in --output s3://bucket/out --model s3://bucket/model

Exit code 0: all is well, or there are only warnings. 1: something would fail. 2: a bad setting.
"""

import sys
from collections.abc import Sequence
from functools import partial

from workers.doctor.settings import DoctorSettings
from workers.exit_codes import end, speaker


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all checks; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return end(partial(_work, given), speaker("doctor"))


def _work(given: Sequence[str]) -> int:
    settings = DoctorSettings.from_flags(given, "python jobs/doctor.py")
    # Only once the flags are known to be right: torch takes seconds to import.
    from workers.doctor.examination import describe, describe_all, examine, exit_code, to_json

    findings = []
    for finding in examine(settings):
        findings.append(finding)
        print(to_json(finding) if settings.as_json else describe(finding), flush=True)
    if not settings.as_json:
        print(describe_all(findings))
    return exit_code(findings)


if __name__ == "__main__":
    sys.exit(main())
