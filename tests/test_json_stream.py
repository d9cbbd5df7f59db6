import io
import json
import tracemalloc

import pytest

from workers import json_stream
from workers.errors import PlanError
from workers.json_stream import read_entries

ENTRIES = [
    {
        "text": 'a "quoted" \\ word, ü and \U0001f600 \ud83d',
        "numbers": [1, -2.5e-3, 12345678901234],
    },
    {},
    [],
    {"deep": [[[{"a": None}]]], "yes": True, "no": False},
    "text",
    17,
    -0.5,
]


def read(data, name="x.json"):
    text = data if isinstance(data, bytes) else data.encode()
    return list(read_entries(io.BytesIO(text), name))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 2**21])
@pytest.mark.parametrize("indent", [None, 2])
def test_entries_are_the_same_wherever_the_file_is_cut(monkeypatch, chunk, indent):
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk)
    text = json.dumps(ENTRIES, indent=indent)
    assert [entry.value for entry in read(text)] == ENTRIES
    assert [json.loads(entry.text) for entry in read(text)] == ENTRIES
    document = {"images": ENTRIES, "info": {"year": 1}, "none": [], "count": 123}
    found = [(entry.key, entry.value) for entry in read(json.dumps(document, indent=indent))]
    wanted = [("images", each) for each in ENTRIES] + [("info", {"year": 1}), ("count", 123)]
    assert found == wanted


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_letters_of_several_bytes_may_be_cut(monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk)
    text = json.dumps(["füße \U0001f600"], ensure_ascii=False)
    assert [entry.value for entry in read("\ufeff" + text)] == ["füße \U0001f600"]


def test_empty_lists_and_objects_hold_nothing():
    assert read(" [ ] ") == read("{}\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "7",
        '"text"',
        "[",
        '[{"a": 1}',
        '[{"a": 1},',
        '[{"a": 1},]',
        '[{"a": 1} {"b": 2}]',
        '[{"a": 1}]]',
        '[{"a": 1}] x',
        '[{"a": }]',
        '[{"a": "unclosed}]',
        '["\\ud8"]',
        "[nul]",
        "[1" + "0" * 5000 + "]",
        "[" * 5000,
        '{"a": [1}',
        '{"a" 1}',
        '{"a": 1,}',
        "{1: 2}",
        '{"a": 1',
    ],
)
def test_what_is_no_sound_json_is_refused_with_the_place(text):
    with pytest.raises(PlanError, match=r"^x\.json is no sound JSON at character [0-9,]+: "):
        read(text)


def test_what_is_no_utf_8_is_refused():
    with pytest.raises(PlanError, match="UTF-8"):
        read(b'["caf\xe9"]')


def test_what_came_before_a_mistake_has_been_given():
    entries = read_entries(io.BytesIO(b'[{"a": 1}, {"a": x}]'), "x.json")
    assert next(entries).value == {"a": 1}
    with pytest.raises(PlanError, match="character 17"):
        next(entries)


def test_a_mistake_is_found_where_it_is_and_the_rest_is_not_read(monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 1000)
    file = io.BytesIO(b'[{"a": x}, ' + b'{"a": 1}, ' * 100_000 + b"1]")
    with pytest.raises(PlanError, match="character 7"):
        list(read_entries(file, "x.json"))
    assert file.tell() <= 2000


def test_an_entry_that_never_ends_is_not_held_whole(monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(json_stream, "MAX_ENTRY_CHARS", 10_000)
    file = io.BytesIO(b'[{"a": "' + b"x" * 1_000_000)
    with pytest.raises(PlanError, match="more than 10,000 characters"):
        list(read_entries(file, "x.json"))
    assert file.tell() < 100_000


def test_a_large_file_takes_the_memory_of_its_entries():
    entry = json.dumps({"text": "x" * 10_000})
    file = io.BytesIO(("[" + ",".join([entry] * 5000) + "]").encode())  # 50 MB
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_entries(file, "x.json"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 5000
    assert peak < 5 * json_stream.CHUNK_BYTES
