"""A queue on a server that speaks SQS (moto), over HTTP, with a look at it from behind."""

import json

import boto3

MOST_TIMES = 2
"""That a message is handed out before it is a dead letter."""


class Sqs:
    """A queue with a dead-letter queue, and a look at both from behind."""

    def __init__(self, endpoint: str) -> None:
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        self.client = boto3.client("sqs", endpoint_url=endpoint, region_name="us-east-1", **keys)
        self.dead = self.client.create_queue(QueueName="dead")["QueueUrl"]
        arn = self._attributes(self.dead)["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": f"{MOST_TIMES}"})
        made = self.client.create_queue(QueueName="news", Attributes={"RedrivePolicy": policy})
        self.url = made["QueueUrl"]

    def let_receive(self, times: int) -> None:
        """From now on a message is handed out so often before it is a dead letter."""
        arn = self._attributes(self.dead)["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": f"{times}"})
        self.client.set_queue_attributes(QueueUrl=self.url, Attributes={"RedrivePolicy": policy})

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.client.send_message(QueueUrl=self.url, MessageBody=body)

    def _attributes(self, url: str) -> dict[str, str]:
        return self.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]

    def count(self, url: str | None = None) -> tuple[int, int]:
        """Messages that are to be had, and those that are in somebody's hand."""
        found = self._attributes(url or self.url)
        waiting = int(found["ApproximateNumberOfMessages"])
        return waiting, int(found["ApproximateNumberOfMessagesNotVisible"])

    def dead_bodies(self) -> list[str]:
        got = self.client.receive_message(QueueUrl=self.dead, MaxNumberOfMessages=10)
        return [each["Body"] for each in got.get("Messages", ())]
