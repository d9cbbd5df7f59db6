"""Where one shard ends and the next begins, and by what name a shard is known.

Both are taken from the content, never from a position: whoever inserts an image into a folder that
was labelled yesterday has few shards to label again, not all that come after it.
"""

from collections import Counter
from hashlib import sha256
from zlib import crc32

from workers.errors import PlanError
from workers.shards.kinds import ShardKind


class Border:
    """Decides where a shard ends, from the next line and the length so far.

    From half of the limit on, a line ends the shard before it with a chance of 2 in the limit;
    so borders fall into step again soon after an insertion.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise PlanError(f"records per shard is {limit!r}; it must be at least 1")
        self.limit = limit
        self._half = max(1, limit // 2)

    def before(self, line: bytes, count: int) -> bool:
        """Whether a shard that has `count` records ends before this line."""
        return count >= self.limit or (count >= self._half and crc32(line) % self._half == 0)


class Identity:
    """Makes shard ids; a plan never has one twice, though a file may hold the same lines twice."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def of(self, kind: ShardKind, source: str, content: str) -> str:
        """The id of the next shard with this content."""
        base = _digest(kind, source, content)
        self._seen[base] += 1
        again = self._seen[base] - 1
        return (_digest(base, str(again)) if again else base)[:20]


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
