"""What can go wrong in the labelling line. The tree of `pixellm.errors` goes on here.

PixelLMError
└── LineError                     ends
    ├── StorageError              a shard   a folder or a bucket did not do what was asked
    │   ├── StorageUnavailable    a shard   RETRIED: time-out, broken connection, 5xx
    │   ├── ObjectMissing         a shard   no such bucket, object or file
    │   ├── AccessDenied          the job   the credentials do not reach this far
    │   │   └── CallerUnknown     the job   there are none, or the store does not take them
    │   └── ConditionUnsupported  the job   the store has no "write unless it is there"
    ├── OutputUnwritable          the job   the output is full, read-only, or refuses our writes
    ├── SettingsError             the job   a setting is unknown or contradicts another
    ├── PlanError                 the job   nothing is under the input, or it can't be cut or read
    ├── RecordRejected            a row     one record can't be labelled
    ├── ReplicaBroken             a worker  RETRIED: the model can't answer anything any more
    ├── CommitError               the job   a marker or a manifest does not say what it must
    ├── QueueTrouble              nothing   the queue of events does not answer, or refuses
    ├── ExportError               the job   a table can't be written in the form asked for
    └── ScoringError              the job   two tables can't be compared, or a judge doesn't answer

What ends a row or a shard lets the run go on: a row of status `rejected_input` has its reason, and
a failed shard is not committed, so that the next start of the same command does it. A shard whose
worker broke is begun again on a new one. While nothing is being labelled yet, or no longer, each
of them ends the job, with its message. `workers.replica` has the table of who catches what.

What is outside this tree is a bug of ours and ends the job with its traceback. Only the call of the
model is different, where a bad sample raises what torch makes of it: see `workers.model_thread`.
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
    """The credentials do not reach this far; one of its kind says that there are none."""


class CallerUnknown(AccessDenied):
    """There are no credentials, or the store does not take them: wrong, expired, of another."""


class ConditionUnsupported(StorageError):
    """The store has no write that is refused when the object is there."""


class OutputUnwritable(LineError):
    """The output is full, read-only, or refuses our writes; every shard would find it so."""


class SettingsError(LineError):
    """A setting is unknown, contradicts another, or names something that is not there."""


class PlanError(LineError):
    """Nothing is under the input to label or import, or it can't be cut or read as a whole."""


class RecordRejected(LineError):
    """One record can't be labelled; it becomes a row of status `rejected_input`.

    Args:
        code: short and stable, one of a closed list in snake_case, such as `image_broken`;
            this is what people count and filter by.
        message: one sentence for the person who looks at that row.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ReplicaBroken(LineError):
    """The model can't answer anything any more; the process must be replaced."""


class CommitError(LineError):
    """A commit marker or a manifest does not say what it must."""


class QueueTrouble(LineError):
    """The queue of events does not answer, or refuses; sweeps find what it would have told."""


class ExportError(LineError):
    """A label table can't be written in the form that was asked for."""


class ScoringError(LineError):
    """Two label tables can't be held against each other, or a judge of phrases does not answer."""
