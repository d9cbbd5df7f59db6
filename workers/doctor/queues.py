"""Checks of the queue that a watcher hears from: is it there, and where do poison messages go."""

from collections.abc import Iterator

from workers.doctor.findings import Finding, skipped


def check_queue(url: str | None) -> Iterator[Finding]:
    """Whether the queue can be read, and has a queue for what can't be worked on."""
    name = "queue"
    if url is None:
        yield skipped(name, "no --queue-url: a watcher finds what is new by listing")
        return
    yield skipped(name, f"{url} was not looked at: this check is not there yet")
