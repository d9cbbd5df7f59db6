import io
import json
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest

from tests.gold import COCO, convert, write
from tests.test_imports_refcoco import refs
from workers.errors import PlanError
from workers.imports import refs_pickle
from workers.imports.refs_pickle import main, read_plain_pickle, to_json

PLAIN = [
    {"ref_id": 1, "sentences": [{"tokens": ("a", "b"), "sent": "ü"}], "area": 1.5, "ok": True},
    None,
    b"bytes",
    -(2**70),
    [],
    {},
    (),
]


class Harm:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class State:
    pass


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_out_as_they_were(protocol):
    # the bytes of Python 3 are a call of a function in the oldest forms
    values = PLAIN if protocol > 2 else [value for value in PLAIN if value != b"bytes"]
    data = pickle.dumps(values, protocol)
    if protocol == 5:
        data = pickletools.optimize(data)
    assert read_plain_pickle(data, "x.p") == values


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_refused_and_not_run(tmp_path, protocol):
    marker = tmp_path / "harmed"
    data = pickle.dumps([Harm(marker)], protocol)
    with pytest.raises(PlanError, match="refused, nothing of it was run"):
        read_plain_pickle(data, "x.p")
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists(), "it would have done harm"


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # GLOBAL and REDUCE
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL
        b"\x80\x02\x82\x01.",  # EXT1
        b"Pid\n.",  # PERSID
        b"\x80\x02K\x01Q.",  # BINPERSID
        b"\x80\x05\x97.",  # NEXT_BUFFER
    ],
)
def test_every_step_that_reaches_for_code_is_refused(data):
    with pytest.raises(PlanError, match="a step that makes no plain value"):
        read_plain_pickle(data, "x.p")


@pytest.mark.parametrize("value", [State(), np.float64(1), {1, 2}, 1j, bytearray(b"a"), range(3)])
def test_objects_of_classes_are_refused(value):
    with pytest.raises(PlanError):
        read_plain_pickle(pickle.dumps(value, 2), "x.p")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle",
        pickle.dumps(PLAIN)[:-5],
        b"\x80\x02]q",
        b"\x80\x02.",
        b"\x80\x04h\x05.",  # takes out what was never put in
        b"\x80\x04]K\x01s.",  # sets an item of a list
        b"\x80\x04}]K\x01s.",  # a list as a key
        b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",
    ],
)
def test_what_is_damaged_or_wants_too_much_is_refused(data):
    with pytest.raises(PlanError):
        read_plain_pickle(data, "x.p")


def test_a_memo_of_16_gigabytes_is_not_made():
    data = b"\x80\x04Nr" + struct.pack("<I", 2**31 - 1) + b"."
    with pytest.raises(PlanError, match="wants more memory than its size can need"):
        read_plain_pickle(data, "x.p")


def test_the_second_lock_holds_by_itself(monkeypatch, tmp_path):
    every = frozenset(step.name for step in pickletools.opcodes)
    monkeypatch.setattr(refs_pickle, "_PLAIN", every)
    for data in (pickle.dumps(Harm(tmp_path / "harmed")), b"Pid\n."):
        with pytest.raises(PlanError, match=r"it asks for posix\.system|refers to something"):
            read_plain_pickle(data, "x.p")
    assert not (tmp_path / "harmed").exists()


def test_lists_that_hold_each_other_many_times_are_not_written_out(monkeypatch):
    value = ["x"]
    for _ in range(30):
        value = [value] * 30
    data = pickle.dumps(value)
    assert len(data) < 10_000
    monkeypatch.setattr(refs_pickle, "MAX_VALUES", 10_000)
    with pytest.raises(ValueError, match="more than 10,000 values"):
        to_json(read_plain_pickle(data, "x.p"))


def test_a_list_in_itself_is_not_written_out():
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="deep"):
        to_json(read_plain_pickle(pickle.dumps(value), "x.p"))


def _python2(value):
    """A pickle of Python 2: its texts are SHORT_BINSTRING, which Python 3 never writes."""
    out = io.BytesIO()
    out.write(b"\x80\x02")

    def put(each):
        if isinstance(each, dict):
            out.write(b"}(")
            for key, item in each.items():
                put(key)
                put(item)
            out.write(b"u")
        elif isinstance(each, list):
            out.write(b"](")
            for item in each:
                put(item)
            out.write(b"e")
        elif isinstance(each, str):
            data = each.encode()
            out.write(b"U" + bytes([len(data)]) + data)
        else:
            out.write(b"J" + struct.pack("<i", each))

    put(value)
    return out.getvalue() + b"."


def test_references_of_python_2_become_the_json_that_an_import_reads(tmp_path, capsys):
    for ref in (found := refs()):
        ref["sentences"][0]["sent"] += " ü"
    source, target = tmp_path / "refs(unc).p", tmp_path / "refs.json"
    source.write_bytes(_python2(found))
    assert main([str(source), str(target)]) == 0
    assert json.loads(target.read_text()) == found
    assert f"{len(found)} references" in capsys.readouterr().out
    write(tmp_path / "instances.json", COCO)
    rows = convert("refcoco", target, tmp_path / "gold", "--referring", "single")
    assert len(rows) == 2 * len(found)
    assert {row.status for row in rows} == {"ok"}


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert main([]) == 2
    assert main([str(tmp_path / "none.p"), "x"]) == 1
    (tmp_path / "bad.p").write_bytes(pickle.dumps(Harm(tmp_path / "harmed")))
    assert main([str(tmp_path / "bad.p"), str(tmp_path / "out.json")]) == 2
    assert "nothing of it was run" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    (tmp_path / "bytes.p").write_bytes(pickle.dumps([b"\xff"]))
    assert main([str(tmp_path / "bytes.p"), str(tmp_path / "out.json")]) == 2
