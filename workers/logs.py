"""Logs for programs: a JSON object a line, with time, level, message, and the ids that are known.

    {"time": "2027-01-31T06:00:00.000Z", "level": "error", "message": "shard ab12 failed: ...",
     "from": "label", "run": "label-0123", "shard": "ab12"}

What people read is as before: lines of text. In neither stands what was asked of an image, or the
query of a presigned address.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

from workers.storage.uris import redact

IDS = ("run", "shard", "record")
"""What a record of Python's logging may have in its `extra`: which work it is about."""
REPLICA = "replica"
"""The name that replicas log under."""
_as_json = False


class Level(StrEnum):
    """How much it matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def json_line(message: str, level: str, origin: str, **facts: object) -> str:
    """A line of the log, without its end.

    Args:
        message: for people; the values of signatures are taken out.
        level: how much it matters.
        origin: who says it: the command, or `replica`.
        facts: which work it is about, and numbers; those that are None are left out.
    """
    line = {
        "time": f"{datetime.now(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z",
        "level": level,
        "message": redact(message),
        "from": origin,
        **{name: value for name, value in facts.items() if value is not None},
    }
    return json.dumps(line, ensure_ascii=False)


class JsonFormatter(logging.Formatter):
    """Python's logging as such lines."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback goes into the message, with its ends of lines escaped."""
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        known = {name: getattr(record, name, None) for name in IDS}
        return json_line(message, record.levelname.lower(), record.name, **known)


def log_as_json(stream: TextIO | None = None) -> None:
    """From now on all that this process logs is lines of JSON, on standard error.

    Args:
        stream: instead of standard error.
    """
    global _as_json
    _as_json = True
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(REPLICA).setLevel(logging.INFO)


def log_error(text: str) -> None:
    """What must be heard of a replica: as a line of JSON if that was asked for, else as it is."""
    if _as_json:
        logging.getLogger(REPLICA).error(text)
    else:
        print(text, file=sys.stderr, flush=True)
