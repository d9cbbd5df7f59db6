"""A `Queue` in memory: the fake that ships beside the real one, so that a watcher runs without AWS.

    box = Postbox(most_times=2)
    queue = MemoryQueue(box)        # any number of them read the same box, as watchers do

What is handed out is hidden for a time and comes again after it, unless it was deleted; what was
handed out `most_times` is a dead letter when it would come again.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from workers.watching.messages import MOST_HELD, VISIBILITY_SECONDS, Message, Queue, QueueState

STEP_SECONDS = 0.05
"""Between two looks while a message is waited for."""


@dataclass(slots=True)
class _Letter:
    body: str
    hidden_until: float
    times: int = 0
    """that it was handed out"""

    def receipt(self, message_id: str) -> str:
        return f"{message_id} {self.times}"


class Postbox:
    """All messages of a queue, and its dead letters; for any thread.

    Args:
        most_times: that a message is handed out before it is a dead letter; 0 for no end of times.
        clock: seconds, never set back.
        sleep: lets that time pass.
    """

    def __init__(
        self,
        most_times: int = 3,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.most_times, self.clock, self._sleep = most_times, clock, sleep
        self.dead: list[str] = []
        """bodies"""
        self._letters: dict[str, _Letter] = {}
        self._sent = 0
        self._lock = threading.Lock()

    def send(self, *bodies: str) -> None:
        """New messages."""
        with self._lock:
            for body in bodies:
                self._sent += 1
                self._letters[f"message-{self._sent}"] = _Letter(body, self.clock())

    def counts(self) -> tuple[int, int]:
        """Messages that are to be had, and those that are in somebody's hand."""
        with self._lock:
            now = self.clock()
            hidden = sum(each.hidden_until > now for each in self._letters.values())
            return len(self._letters) - hidden, hidden

    def hand_out(self, wait_seconds: float, hide_seconds: float) -> list[Message]:
        """All that is to be had; waits for the first if there is none."""
        until = self.clock() + wait_seconds
        while not (found := self._hand_out(hide_seconds)) and self.clock() < until:
            self._sleep(STEP_SECONDS)
        return found

    def _hand_out(self, hide_seconds: float) -> list[Message]:
        with self._lock:
            return list(self._find_due(self.clock(), hide_seconds))

    def _find_due(self, now: float, hide_seconds: float) -> Iterator[Message]:
        for message_id, letter in list(self._letters.items()):
            if letter.hidden_until > now:
                continue
            if self.most_times and letter.times >= self.most_times:
                self.dead.append(self._letters.pop(message_id).body)
                continue
            letter.times, letter.hidden_until = letter.times + 1, now + hide_seconds
            yield Message.read(message_id, letter.receipt(message_id), letter.body)

    def hide(self, messages: Iterable[Message], hide_seconds: float) -> None:
        """Hides them from now on; those that were handed out again since are another one's."""
        with self._lock:
            for message_id in self._owned(messages):
                self._letters[message_id].hidden_until = self.clock() + hide_seconds

    def remove(self, messages: Iterable[Message]) -> None:
        """Deletes them, likewise."""
        with self._lock:
            for message_id in self._owned(messages):
                del self._letters[message_id]

    def _owned(self, messages: Iterable[Message]) -> list[str]:
        """Ids of those whose receipt is the newest."""
        return [
            each.message_id
            for each in messages
            if (letter := self._letters.get(each.message_id)) is not None
            and letter.receipt(each.message_id) == each.receipt
        ]


class MemoryQueue(Queue):
    """A box as one watcher reads it; see `Queue` for what its methods mean.

    Args:
        box: with the messages.
        visibility_seconds: for which a message is hidden from others.
        most_held: in hand at once.
    """

    def __init__(
        self,
        box: Postbox,
        visibility_seconds: int = VISIBILITY_SECONDS,
        most_held: int = MOST_HELD,
    ) -> None:
        super().__init__("memory", most_held)
        self.visibility_seconds = visibility_seconds
        self._box = box

    def receive(self, wait_seconds: int) -> list[Message]:
        """See `Queue`."""
        if self.is_full:
            return []
        found = self._box.hand_out(wait_seconds, self.visibility_seconds)
        self._hand.keep(found)
        return found

    def prolong(self) -> None:
        """See `Queue`."""
        self._box.hide(self.held, self.visibility_seconds)

    def delete(self, messages: Sequence[Message]) -> None:
        """See `Queue`."""
        self._box.remove(messages)
        self.let_go(messages)

    def look(self) -> QueueState:
        """See `Queue`."""
        return QueueState(
            *self._box.counts(),
            dead_letters="memory of dead letters" if self._box.most_times else "",
            most_times=self._box.most_times,
        )
