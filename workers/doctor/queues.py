"""Checks of the queue that a watcher hears from: is it there, and where do poison messages go.

Nothing is received: each time that a message is handed out counts for its way to the dead letters.
"""

from collections.abc import Iterator

from pixellm.errors import PixelLMError
from workers.doctor.findings import Finding, failed_by, ok, skipped, warning
from workers.watching.event_queue import EventQueue

LEAST_TIMES = 3
"""That a message should be handed out before it is a dead letter: a watcher that was killed, and a
drop whose bucket was away for a while, cost one each."""
RIGHTS = (
    "correct --queue-url, or allow sqs:GetQueueAttributes, ReceiveMessage, ChangeMessageVisibility "
    "and DeleteMessage on it"
)


def check_queue(url: str | None) -> Iterator[Finding]:
    """Whether the queue can be read, and has a queue for what can't be worked on."""
    if url is None:
        yield skipped("queue", "no --queue-url: a watcher finds what is new by listing")
        return
    try:
        state = EventQueue(url).look()
    except PixelLMError as error:
        yield failed_by("queue.attributes", error, RIGHTS)
        return
    yield ok("queue.attributes", f"{state.waiting:,} messages wait, {state.in_hand:,} are in hand")
    if not state.dead_letters:
        seen = "it has no redrive policy: messages that nobody understands come again and again"
        yield warning("queue.dead_letters", seen, "give it a dead-letter queue: infra/README.md")
    elif state.most_times < LEAST_TIMES:
        seen = f"a message is given up after {state.most_times} times"
        yield warning("queue.dead_letters", seen, f"let maxReceiveCount be {LEAST_TIMES} or more")
    else:
        yield ok("queue.dead_letters", f"after {state.most_times} times to {state.dead_letters}")
