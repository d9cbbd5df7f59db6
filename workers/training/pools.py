"""Examples of about one length, batch by batch: a short row beside a long one is mostly padding.

Some global batches are drawn together, sorted by length, cut, and taken in a shuffled order.
Batches that follow each other are then of mixed lengths, and rows of a batch of nearly the same.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from workers.errors import SettingsError
from workers.training.chance import shuffle
from workers.training.conversations import Conversation
from workers.training.examples import Example, Skipped
from workers.training.mixing import Drawn, Mix, MixPosition

POOL_BATCHES = 16
"""Global batches of a pool. With 160 rows each, as in the paper, it is some 30 MB: an example with
four masks of a photo has 12 KB (measured). Two pools are in memory."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Global batches that were drawn together."""

    start: MixPosition
    stop: MixPosition
    """behind the last example of it"""
    rows: tuple[Conversation, ...]
    """sorted by length"""
    batches: tuple[range, ...]
    """which rows each global batch has, in the order in which they are taken"""
    skipped: Counter[str]
    """rows that were passed over while it was drawn, by reason"""


def group_by_length(
    mix: Mix,
    start: MixPosition,
    encode: Callable[[Example], Conversation | Skipped],
    *,
    batch_rows: int,
    pool_batches: int = POOL_BATCHES,
) -> Iterator[Pool]:
    """Draws pools, one after the other, without end.

    Args:
        mix: what is drawn from.
        start: where the first pool begins: `Mix.start`, or `Pool.stop` of another.
        encode: example -> ids, or why it has none; then another takes its place.
        batch_rows: examples of a global batch.
        pool_batches: global batches of a pool.
    """
    drawn = mix.read(start)
    while True:
        pool = _draw_pool(mix, drawn, start, encode, batch_rows, pool_batches)
        yield pool
        start = pool.stop


def _draw_pool(
    mix: Mix,
    drawn: Iterator[Drawn],
    start: MixPosition,
    encode: Callable[[Example], Conversation | Skipped],
    batch_rows: int,
    pool_batches: int,
) -> Pool:
    rows, skipped, stop = list[Conversation](), Counter[str](), start
    refused = 0
    while len(rows) < batch_rows * pool_batches:
        each = next(drawn)
        stop = each.after
        skipped += each.skipped
        conversation = encode(each.example)
        if isinstance(conversation, Skipped):
            skipped[conversation.reason] += 1
            refused += 1
            _check_hope(mix, refused, conversation)
        else:
            rows.append(conversation)
            refused = 0
    rows.sort(key=lambda row: len(row.ids.ids))
    order = shuffle(pool_batches, "batches", mix.seed, start.taken)
    batches = tuple(range(at * batch_rows, (at + 1) * batch_rows) for at in order)
    return Pool(start, stop, tuple(rows), batches, skipped)


def _check_hope(mix: Mix, refused: int, last: Skipped) -> None:
    """Stops a search that would never end."""
    if refused >= mix.rows:
        raise SettingsError(
            f"no example of the data can be given to the model: {refused:,} in a row were refused,"
            f" the last one (item {last.item_id!r}): {last.reason}"
        )
