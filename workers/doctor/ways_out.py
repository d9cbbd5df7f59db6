"""What to do about a store that failed: rights are no help to whom the store doesn't know."""

from workers.errors import AccessDenied, CallerUnknown, LineError, ObjectMissing, StorageUnavailable
from workers.storage.uris import scheme_of

READ = "s3:ListBucket on the bucket and s3:GetObject on the prefix"
WRITE = "s3:PutObject on the prefix"
"""Rights that reading and writing need."""


def way_out(error: LineError, place: str, flag: str, rights: str) -> str:
    """A sentence for whoever runs the doctor.

    Args:
        error: of the store.
        place: that was looked at.
        flag: that names it.
        rights: of S3, that what failed needs.
    """
    if isinstance(error, CallerUnknown):
        return "correct the credentials, or AWS_ENDPOINT_URL if they are those of another store"
    if isinstance(error, StorageUnavailable):
        return "start the server, or correct AWS_ENDPOINT_URL" if scheme_of(place) else "try again"
    if isinstance(error, ObjectMissing):
        return f"create it, or correct {flag}"
    if not isinstance(error, AccessDenied):
        return f"correct {flag}"
    if scheme_of(place):
        return f"allow {rights} (infra/aws/policies has examples), or correct {flag}"
    return f"give this user the rights to it (chown, chmod), or correct {flag}"
