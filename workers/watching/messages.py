"""Messages in a watcher's hand, and what it needs of the queue that hands them out: `Queue`."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from workers.watching.events import Event, NoEventError, parse_events

MOST_HELD = 2_000
"""In this watcher's hand; SQS allows 120,000 for all readers of a queue together."""
VISIBILITY_SECONDS = 120
"""For which a message is hidden from others; prolonged several times in that time."""


@dataclass(frozen=True, slots=True)
class Message:
    """What the queue has handed out."""

    message_id: str
    receipt: str
    """by which it is prolonged and deleted"""
    events: tuple[Event, ...]
    problem: str = ""
    """why it says nothing; then it is no event"""

    @classmethod
    def read(cls, message_id: str, receipt: str, body: str) -> Self:
        """What a message says, or why it says nothing."""
        try:
            return cls(message_id, receipt, parse_events(body))
        except NoEventError as error:
            return cls(message_id, receipt, (), f"{error}")


@dataclass(frozen=True, slots=True)
class QueueState:
    """How a queue stands; the counts are estimates."""

    waiting: int
    """messages that nobody has in hand"""
    in_hand: int
    dead_letters: str
    """where messages end that come too often; empty where there is no such place"""
    most_times: int
    """that a message is handed out before it goes there"""


class Hand:
    """Messages in a watcher's hand, in the order in which they came; for any thread.

    Args:
        most: that there can be.
    """

    def __init__(self, most: int = MOST_HELD) -> None:
        self.most = most
        self._messages: dict[str, Message] = {}
        self._lock = threading.Lock()

    @property
    def messages(self) -> tuple[Message, ...]:
        """All of them."""
        with self._lock:
            return tuple(self._messages.values())

    @property
    def is_full(self) -> bool:
        """Whether there are `most`."""
        with self._lock:
            return len(self._messages) >= self.most

    def keep(self, messages: Iterable[Message]) -> None:
        """Those that say something; one that came again has a new receipt."""
        with self._lock:
            self._messages.update({each.message_id: each for each in messages if not each.problem})

    def let_go(self, messages: Iterable[Message]) -> None:
        """They are no longer in hand."""
        with self._lock:
            for each in messages:
                self._messages.pop(each.message_id, None)


class Queue(ABC):
    """A queue as one watcher reads it, from any thread. Every call may raise `QueueTrouble`.

    Args:
        url: its name, for people.
        most_held: in hand at once.
    """

    def __init__(self, url: str, most_held: int = MOST_HELD) -> None:
        self.url = url
        self._hand = Hand(most_held)

    @property
    def held(self) -> tuple[Message, ...]:
        """Messages in hand, in the order in which they came."""
        return self._hand.messages

    @property
    def is_full(self) -> bool:
        """Whether no more is handed out until some of what is in hand is let go or deleted."""
        return self._hand.is_full

    def let_go(self, messages: Iterable[Message]) -> None:
        """No longer in hand: they come again when their visibility ends."""
        self._hand.let_go(messages)

    @abstractmethod
    def receive(self, wait_seconds: int) -> list[Message]:
        """Takes what is there, until the hand is full; waits for the first if there is none.

        Args:
            wait_seconds: at most 20.

        Returns:
            The new ones. Those that say nothing are not in hand, and come again.
        """

    @abstractmethod
    def prolong(self) -> None:
        """Hides the messages in hand from others for another while."""

    @abstractmethod
    def delete(self, messages: Sequence[Message]) -> None:
        """They are done with; where this fails they come again, and are found to be done."""

    @abstractmethod
    def look(self) -> QueueState:
        """How the queue stands; nothing is handed out."""
