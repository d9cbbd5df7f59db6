"""All checks, in the order in which one would mend what they find, and a page of that."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from workers.doctor.devices import check_devices
from workers.doctor.findings import Finding, Outcome, skipped
from workers.doctor.queues import check_queue
from workers.doctor.ray_cluster import check_address, check_dashboard
from workers.doctor.settings import DoctorSettings
from workers.doctor.storage import check_clock, check_input, check_output
from workers.doctor.versions import check_packages, check_python
from workers.doctor.weights import check_weights
from workers.settings import SHIPPED_MODEL
from workers.storage.stores import open_store
from workers.wording import counted

MARKS = {Outcome.OK: "ok", Outcome.WARNING: "warn", Outcome.FAILURE: "FAIL", Outcome.SKIPPED: "-"}


def examine(settings: DoctorSettings) -> Iterator[Finding]:
    """Runs all checks; each finding comes as it is found."""
    yield from check_python()
    yield from check_packages()
    yield from check_devices()
    yield from _check_stores(settings)
    model = settings.model or SHIPPED_MODEL
    yield from check_weights(open_store(model), model)
    yield from check_queue(settings.queue_url)
    yield from check_address()
    yield from check_dashboard(settings.address)


def _check_stores(settings: DoctorSettings) -> Iterator[Finding]:
    if settings.input:
        yield from check_input(open_store(settings.input), settings.input)
    else:
        yield skipped("storage.input", "no --input")
    if settings.output:
        yield from check_output(open_store(settings.output), settings.output)
        yield from check_clock(open_store(settings.output), settings.output)
    else:
        yield skipped("storage.output", "no --output")


def describe(finding: Finding) -> str:
    """A finding as lines of the table."""
    head = f"{MARKS[finding.outcome]:<5} {finding.check:<26} "
    below = " " * len(head)
    seen = finding.seen.replace("\n", f"\n{below}")
    to_do = finding.to_do.replace("\n", f"\n{below}   ")
    return f"{head}{seen}" + (f"\n{below}-> {to_do}" if finding.to_do else "")


def describe_all(findings: Sequence[Finding]) -> str:
    """The last line: how many there are of each."""
    found = Counter(finding.outcome for finding in findings)
    warnings, failures = (counted(found[each], each) for each in (Outcome.WARNING, Outcome.FAILURE))
    return f"{found[Outcome.OK]} ok, {warnings}, {failures}, {found[Outcome.SKIPPED]} skipped"


def to_json(finding: Finding) -> str:
    """A finding as a line for programs."""
    return json.dumps(asdict(finding))


def exit_code(findings: Sequence[Finding]) -> int:
    """1 where a job would not run, or where anybody could run theirs; else 0."""
    return int(any(finding.outcome is Outcome.FAILURE for finding in findings))
