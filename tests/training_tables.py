"""Label tables to learn from: real photos with the masks that people drew, asked several times."""

from dataclasses import replace
from functools import cache

from pixellm.tiny import tiny_checkpoint
from tests.labels import label_photo
from tests.photos import load_photos
from workers.labels.commits import Ledger
from workers.labels.manifests import finish_run
from workers.labels.schema import LabelRow
from workers.labels.table import PartIdentity, write_part
from workers.storage.memory import MemoryStore
from workers.storage.stores import Anywhere
from workers.training.batches import BatchLimits, BatchMaker
from workers.training.reading import ExampleStream

PHOTOS = "s3://b/in"
"""Where `label_photo` says that they lie."""
FINGERPRINT = "f" * 16


@cache
def tiny():
    return tiny_checkpoint(0, max_positions=512)


@cache
def photo_rows(questions=5) -> tuple[LabelRow, ...]:
    """Eight photos, each asked so often; 40 rows unless it is said otherwise."""
    first = [label_photo(photo) for photo in load_photos()]
    return tuple(
        replace(row, item_id=f"{number:02}{row.item_id[2:]}", instruction=f"{at}, {number}?")
        for at, row in enumerate(first)
        for number in range(questions)
    )


def put_table(store, output, rows, rows_per_part=6, run_id="run-1", finish=False):
    """Commits rows part by part."""
    ledger, shards = Ledger(store, output, run_id), []
    for start in range(0, len(rows), rows_per_part):
        shards.append(f"{start:020}")
        part = write_part(
            rows[start : start + rows_per_part], PartIdentity(run_id, shards[-1], FINGERPRINT)
        )
        ledger.commit(shards[-1], part, fingerprint=FINGERPRINT, source="in", source_etag="e")
    if finish:
        finish_run(
            ledger,
            shards,
            planned_at=f"2026-11-24T12:00:00.{run_id[-1]}",
            source="in",
            settings_digest="s",
            fingerprint=FINGERPRINT,
        )


def put_photos(store, leave_out=()):
    for photo in load_photos():
        if photo.name not in leave_out:
            store.put(f"{PHOTOS}/{photo.name}", photo.data)


def memory_table(rows=None, output="mem://b/out", **more) -> MemoryStore:
    """A store with the photos and a table of them."""
    store = MemoryStore()
    put_photos(store)
    put_table(store, output, photo_rows() if rows is None else rows, **more)
    return store


def stream_of(store, output="mem://b/out", seed=1, window_rows=10, **more) -> ExampleStream:
    return ExampleStream(store, output, seed=seed, window_rows=window_rows, **more)


def tiny_maker(store, max_ids=400) -> BatchMaker:
    return BatchMaker(tiny().tokenizer, 56, "", store, BatchLimits(max_ids))


def put_local_photos(folder, output, **more):
    """The photos below a folder of this machine, and a table of them, each asked twice."""
    (folder / "photos").mkdir()
    for photo in load_photos():
        (folder / "photos" / photo.name).write_bytes(photo.data)
    here = f"{folder}/photos"
    rows = [replace(r, image_uri=r.image_uri.replace(PHOTOS, here)) for r in photo_rows(2)]
    put_table(Anywhere(), output, rows, **more)
