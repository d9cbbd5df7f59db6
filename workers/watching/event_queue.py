"""The queue of SQS that S3 tells about new objects: messages come in, and go once all is labelled.

A message stays in this watcher's hand while its drop is waited for or worked on: its visibility is
prolonged again and again. It is deleted when what it is about is labelled. One that can't be
understood, or whose drop fails, is let go: the queue hands it out again, and after as many times as
its redrive policy says puts it into the dead-letter queue, where a person finds it.
"""

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as aws
from botocore.config import Config

from workers.errors import QueueTrouble, SettingsError
from workers.storage.uris import redact, shown
from workers.watching.messages import MOST_HELD, VISIBILITY_SECONDS, Message, Queue, QueueState

IN_A_REQUEST = 10
"""Messages; SQS takes no more."""
REQUESTS_AT_ONCE = 8
"""That prolong what is in hand: 2,000 messages are 200 requests, and must be through in time."""
CONNECT_SECONDS, READ_SECONDS = 10, 30  # a long poll is answered after 20 s
TRIES = 3
"""Of a request; to listen is tried once, since sweeps wait while a queue hangs."""
_COUNTS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
_REGION = re.compile(r"(?:^|\.)sqs[.-]([a-z]{2}[a-z0-9-]+-\d)\.|^([a-z]{2}[a-z0-9-]+-\d)\.queue\.")


class EventQueue(Queue):
    """Messages of one queue of SQS.

    Args:
        url: of the queue, as SQS names it; its host is the server that is asked.
        visibility_seconds: for which a message is hidden from others.
        most_held: in hand at once.
    """

    def __init__(
        self,
        url: str,
        visibility_seconds: int = VISIBILITY_SECONDS,
        most_held: int = MOST_HELD,
    ) -> None:
        super().__init__(url, most_held)
        self.visibility_seconds = visibility_seconds
        self._client, self._listener = _connect(url, TRIES), _connect(url, 1)

    def receive(self, wait_seconds: int) -> list[Message]:
        """Asks until the queue is empty, or the hand is full; a flood of nonsense fills none."""
        new: list[Message] = []
        while not self.is_full and len(new) < self._hand.most:
            found = self._receive(0 if new else wait_seconds)
            new += found
            if not found:
                break
        return new

    def prolong(self) -> None:
        """Some requests at a time; what one of them fails with comes when all are through."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="prolong") as pool:
            for _ in pool.map(self._prolong, _in_requests(self.held)):
                pass

    def delete(self, messages: Sequence[Message]) -> None:
        """They leave the hand, too."""
        for some in _in_requests(messages):
            entries = [_entry(n, each) for n, each in enumerate(some)]
            with _told(self.url):
                self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)
            self.let_go(some)

    def look(self) -> QueueState:
        """From its attributes; the counts are SQS's own estimates."""
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
            answer = self._listener.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=IN_A_REQUEST,
                WaitTimeSeconds=wait_seconds,
                VisibilityTimeout=self.visibility_seconds,
            )
        found = [
            Message.read(each["MessageId"], each["ReceiptHandle"], each["Body"])
            for each in answer.get("Messages", ())
        ]
        self._hand.keep(found)
        return found

    def _prolong(self, some: Sequence[Message]) -> None:
        entries = [
            {**_entry(n, each), "VisibilityTimeout": self.visibility_seconds}
            for n, each in enumerate(some)
        ]
        with _told(self.url):
            self._client.change_message_visibility_batch(QueueUrl=self.url, Entries=entries)


def _entry(number: int, message: Message) -> dict[str, Any]:
    return {"Id": f"{number}", "ReceiptHandle": message.receipt}


def _in_requests(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    return (messages[at : at + IN_A_REQUEST] for at in range(0, len(messages), IN_A_REQUEST))


def _connect(url: str, tries: int) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
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
        retries={"mode": "standard", "total_max_attempts": tries},
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
