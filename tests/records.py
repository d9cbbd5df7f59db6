"""Inputs in every form, made in memory, and the records that are read from them."""

import gzip
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

from workers.records.instructions import make_instruction
from workers.records.reading import read_records
from workers.shards.listings import write_listings_to
from workers.shards.plan import plan_shards
from workers.storage.memory import MemoryStore
from workers.storage.uris import join_uri

ROOT = "mem://bucket/in"
DEFAULTS = (make_instruction("everything"),)


def put(store, name, data):
    store.put(join_uri(ROOT, name), data if isinstance(data, bytes) else data.encode())


def plan(store, records_per_shard=100):
    writer = write_listings_to(store, "mem://bucket/plans")
    planned = plan_shards(store, ROOT, records_per_shard=records_per_shard, listing_writer=writer)
    return planned.shards


def read(store, records_per_shard=100, **options):
    options = {"defaults": DEFAULTS, **options}
    shards = plan(store, records_per_shard)
    return [record for shard in shards for record in read_records(shard, store, **options)]


def read_lines(*entries, **options):
    store = MemoryStore()
    lines = [each if isinstance(each, str) else json.dumps(each) for each in entries]
    put(store, "a.jsonl", "\n".join(lines) + "\n")
    return read(store, **options)


def texts(record):
    return [each.text for each in record.instructions]


def codes(records):
    return [record.rejection and record.rejection.code for record in records]


def parquet(table, **options):
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, **options)
    return buffer.getvalue()


def tar(*members, form=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            else:
                member.type, member.linkname = data
                archive.addfile(member)
    return buffer.getvalue()


CONTENTS = {  # two records in each form
    "a.jsonl": b'{"image": "a.jpg"}\n{"image": "b.jpg"}\n',
    "a.jsonl.gz": gzip.compress(b'{"image": "a.jpg"}\n{"image": "b.jpg"}\n'),
    "a.parquet": parquet({"path": ["a.jpg", "b.jpg"]}),
    "a.tar": tar(("a.jpg", b"1"), ("b.jpg", b"1")),
}
