"""The queue that S3 tells about new objects: messages come in, and go once their drop is labelled.

A message stays in this watcher's hand while its drop is waited for or worked on: its visibility is
prolonged again and again. It is deleted when what it is about is labelled. One that can't be
understood, or whose drop fails, is let go: the queue hands it out again, and after as many times as
its redrive policy says puts it into the dead-letter queue, where a person finds it.
"""

import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as aws
from botocore.config import Config

from workers.errors import QueueTrouble, SettingsError
from workers.storage.uris import redact, shown
from workers.watching.events import Event, NoEventError, parse_events

AT_ONCE = 10
"""Messages in a request; SQS takes no more."""
MOST_HELD = 2_000
"""In this watcher's hand; SQS allows 120,000 for all readers of a queue together."""
VISIBILITY_SECONDS = 120
"""For which a message is hidden from others; prolonged several times in that time."""
CONNECT_SECONDS, READ_SECONDS = 10, 30  # a long poll is answered after 20 s
_COUNTS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
_REGION = re.compile(r"(?:^|\.)sqs[.-]([a-z]{2}[a-z0-9-]+-\d)\.|^([a-z]{2}[a-z0-9-]+-\d)\.queue\.")


@dataclass(frozen=True, slots=True)
class Message:
    """What the queue has handed out."""

    message_id: str
    receipt: str
    """by which it is prolonged and deleted"""
    events: tuple[Event, ...]
    problem: str = ""
    """why it says nothing; then it is no event"""


@dataclass(frozen=True, slots=True)
class QueueState:
    """How a queue stands; the counts are SQS's own estimates."""

    waiting: int
    """messages that nobody has in hand"""
    in_hand: int
    dead_letters: str
    """where messages end that come too often; empty where there is no such place"""
    most_times: int
    """that a message is handed out before it goes there"""


class EventQueue:
    """Messages of one queue; may be used from any thread.

    Args:
        url: of the queue, as SQS names it; its host is the server that is asked.
        visibility_seconds: see `VISIBILITY_SECONDS`.
    """

    def __init__(self, url: str, visibility_seconds: int = VISIBILITY_SECONDS) -> None:
        self.url = url
        self.visibility_seconds = visibility_seconds
        self._client = _connect(url)
        self._held: dict[str, Message] = {}
        self._lock = threading.Lock()

    @property
    def held(self) -> tuple[Message, ...]:
        """Messages in hand, in the order in which they came."""
        with self._lock:
            return tuple(self._held.values())

    @property
    def is_full(self) -> bool:
        """Whether there are `MOST_HELD` in hand."""
        with self._lock:
            return len(self._held) >= MOST_HELD

    def receive(self, wait_seconds: int) -> list[Message]:
        """Takes what is there, up to `MOST_HELD` in hand; waits for the first if there is none.

        Args:
            wait_seconds: at most 20.

        Returns:
            The new ones. Those that say nothing are not in hand, and come again.

        Raises:
            QueueTrouble: the queue does not answer, or refuses.
        """
        new: list[Message] = []
        while not self.is_full and len(new) < MOST_HELD:
            found = self._receive(0 if new else wait_seconds)
            new += found
            if not found:
                break
        return new

    def prolong(self) -> None:
        """Hides the messages in hand from others for another while."""
        for some in _in_tens(self.held):
            entries = [
                {**_entry(n, each), "VisibilityTimeout": self.visibility_seconds}
                for n, each in enumerate(some)
            ]
            with _told(self.url):
                self._client.change_message_visibility_batch(QueueUrl=self.url, Entries=entries)

    def delete(self, messages: Sequence[Message]) -> None:
        """They are done with; where this fails they come again, and are found to be done."""
        for some in _in_tens(messages):
            entries = [_entry(n, each) for n, each in enumerate(some)]
            with _told(self.url):
                self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)
            self.let_go(some)

    def let_go(self, messages: Iterable[Message]) -> None:
        """No longer in hand: they come again when their visibility ends."""
        with self._lock:
            for each in messages:
                self._held.pop(each.message_id, None)

    def look(self) -> QueueState:
        """How the queue stands.

        Raises:
            QueueTrouble: the queue does not answer, or refuses.
        """
        with _told(self.url):
            answer = self._client.get_queue_attributes(
                QueueUrl=self.url, AttributeNames=["RedrivePolicy", *_COUNTS]
            )
        found = answer.get("Attributes", {})
        policy = json.loads(found.get("RedrivePolicy", "{}"))
        waiting, in_hand = (int(found.get(name, 0)) for name in _COUNTS)
        return QueueState(
            waiting,
            in_hand,
            str(policy.get("deadLetterTargetArn", "")),
            int(policy.get("maxReceiveCount", 0)),
        )

    def _receive(self, wait_seconds: int) -> list[Message]:
        with _told(self.url):
            answer = self._client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=AT_ONCE,
                WaitTimeSeconds=wait_seconds,
                VisibilityTimeout=self.visibility_seconds,
            )
        found = [_read(each) for each in answer.get("Messages", ())]
        with self._lock:
            self._held.update({each.message_id: each for each in found if not each.problem})
        return found


def _read(raw: dict[str, Any]) -> Message:
    try:
        events, problem = parse_events(raw["Body"]), ""
    except NoEventError as error:
        events, problem = (), f"{error}"
    return Message(raw["MessageId"], raw["ReceiptHandle"], events, problem)


def _entry(number: int, message: Message) -> dict[str, Any]:
    return {"Id": f"{number}", "ReceiptHandle": message.receipt}


def _in_tens(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    return (messages[at : at + AT_ONCE] for at in range(0, len(messages), AT_ONCE))


def _connect(url: str) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or not parts.path.strip("/"):
        raise SettingsError(
            f"--queue-url {shown(url)}: must be like https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"
        )
    found = _REGION.search(parts.netloc)
    region = next((each for each in found.groups() if each), None) if found else None
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    session = boto3.Session()
    return session.client(
        "sqs",
        region_name=region or session.region_name or "us-east-1",
        # not AWS_ENDPOINT_URL, which may name a server that has nothing but buckets
        endpoint_url=f"{parts.scheme}://{parts.netloc}",
        config=config,
    )


@contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        yield
    except (aws.ClientError, aws.BotoCoreError) as error:
        raise QueueTrouble(f"the queue {shown(url)}: {redact(f'{error}')}") from error
