"""What can go wrong in the labelling line. The tree of `pixellm.errors` goes on here.

PixelLMError
└── LineError
    ├── StorageError            a folder or a bucket did not do what was asked
    │   ├── StorageUnavailable  RETRIED  time-out, broken connection, 5xx: may work later
    │   ├── ObjectMissing       final    no such bucket, object or file
    │   ├── AccessDenied        final    no credentials, or they do not reach this far
    │   └── ConditionUnsupported  final  the store has no "write unless it is there"
    ├── SettingsError           final    a setting is unknown or contradicts another
    ├── PlanError               final    nothing to label under the input, or it can't be cut
    ├── RecordRejected          final    one record can't be labelled: it becomes a row
    ├── ReplicaBroken           RETRIED  the model can't answer any more (`workers.batcher`)
    ├── CommitError             final    a marker or a manifest does not say what it must
    └── ExportError             final    a table can't be written in the form asked for

Who catches what: `RecordRejected` ends in a row of status `rejected_input` and the run goes on;
`StorageUnavailable` makes the shard run again, `ReplicaBroken` does so on a new replica; the others
end the job with their message. What is outside this tree is a bug of ours and is not caught: a
shard that fails the same way three times must be seen, not skipped.
"""

# ruff: noqa: N818 - the leaves say what happened, as in the tree; "Error" stands on the branches.

from pixellm.errors import PixelLMError


class LineError(PixelLMError):
    """Everything that the labelling line raises on purpose."""


class StorageError(LineError):
    """A folder or a bucket did not do what was asked of it."""


class StorageUnavailable(StorageError):
    """The store did not answer, or answered that it can't just now. Retried."""


class ObjectMissing(StorageError):
    """There is no such bucket, object or file."""


class AccessDenied(StorageError):
    """There are no credentials, or they do not reach this far."""


class ConditionUnsupported(StorageError):
    """The store has no write that is refused when the object is there."""


class SettingsError(LineError):
    """A setting is unknown, contradicts another, or names something that is not there."""


class PlanError(LineError):
    """There is nothing to label under the input, or it can't be cut into shards."""


class RecordRejected(LineError):
    """One record can't be labelled; it becomes a row of status `rejected_input`.

    Args:
        code: short and stable, one of a closed list in snake_case, such as `image_truncated`;
            this is what people count and filter by.
        message: one sentence for the person who looks at that row.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class CommitError(LineError):
    """A commit marker or a manifest does not say what it must."""


class ExportError(LineError):
    """A label table can't be written in the form that was asked for."""
