"""States of a training run: whole or not there, and never fewer than one that is whole."""

import pytest
import torch

from tests.workbench import FlakyStore
from workers.errors import AccessDenied, StorageUnavailable
from workers.storage.memory import MemoryStore
from workers.storage.stores import open_store
from workers.training.states import KEPT, STATES, States

OUTPUT = "mem://b/out"


def tensors_of(step):
    generator = torch.Generator().manual_seed(step)
    return {
        "weights.a": torch.randn(3, 5, generator=generator),
        "exp_avg.a": torch.randn(3, 5, generator=generator).T,  # not contiguous
        "step.a": torch.tensor(float(step)),
        "half": torch.randn(4, generator=generator).bfloat16(),
    }


def save(states, *steps):
    for step in steps:
        states.save(step, tensors_of(step), {"step": step, "place": {"taken": 3 * step}})


def is_of(state, step):
    expected = tensors_of(step)
    return (
        state.step == step
        and state.rest == {"step": step, "place": {"taken": 3 * step}}
        and state.tensors.keys() == expected.keys()
        and all(torch.equal(state.tensors[name], expected[name]) for name in expected)
    )


def states_in(store, output=OUTPUT):
    told = []
    return States(store, output, told.append), told


def test_where_nothing_was_saved_there_is_nothing():
    states, _ = states_in(MemoryStore())
    assert states.newest() is None
    assert states.newest_rest() == {}


def test_what_is_no_tensor_is_read_without_the_tensors():
    store = MemoryStore()
    states, _ = states_in(store)
    save(states, 9, 10)
    for info in list(store.list(OUTPUT)):
        if info.uri.endswith(".safetensors"):
            store.delete(info.uri)
    assert states.newest_rest() == {"step": 10, "place": {"taken": 30}}


@pytest.mark.parametrize("piece", [1, 100, 10**9], ids=lambda size: f"pieces of {size} bytes")
def test_the_newest_state_is_read_back_as_it_was(piece, monkeypatch):
    monkeypatch.setattr("workers.training.states.PIECE_BYTES", piece)
    states, told = states_in(MemoryStore())
    save(states, 9, 10, 1_000)
    assert is_of(states.newest(), 1_000)
    assert not told


def test_in_a_folder_it_is_the_same(tmp_path):
    output = f"{tmp_path}/out"
    states, _ = states_in(open_store(output), output)
    save(states, 7)
    assert is_of(states_in(open_store(output), output)[0].newest(), 7)


def test_old_states_are_forgotten_whole():
    store = MemoryStore()
    states, _ = states_in(store)
    save(states, *range(1, 6))
    assert states.steps() == [5, 4]
    steps = {info.uri.split(f"{STATES}/")[1][:9] for info in store.list(OUTPUT)}
    assert steps == {"000000004", "000000005"}
    assert len(states.steps()) == KEPT


def test_one_that_was_not_finished_is_not_seen(monkeypatch):
    store = MemoryStore()
    states, _ = states_in(store)
    save(states, 1)
    put = store.put

    def killed(uri, data):
        if uri.endswith(".json"):
            raise KeyboardInterrupt
        return put(uri, data)

    monkeypatch.setattr(store, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        save(states, 2)
    assert is_of(states.newest(), 1)


def test_a_marker_is_written_when_all_pieces_are_there_and_goes_before_them(monkeypatch):
    monkeypatch.setattr("workers.training.states.PIECE_BYTES", 1)
    store, order = MemoryStore(), []
    put, delete = store.put, store.delete
    monkeypatch.setattr(store, "put", lambda uri, data: order.append(uri) or put(uri, data))
    states, _ = states_in(store)
    save(states, 1)
    marker = f"{OUTPUT}/{STATES}/000000001.json"
    assert len(order) > 2
    assert order.index(marker) == len(order) - 1
    order.clear()
    monkeypatch.setattr(store, "delete", lambda uri: order.append(uri) or delete(uri))
    save(states, 2, 3)
    gone = [uri for uri in order if f"{STATES}/000000001" in uri]
    assert len(gone) > 2
    assert gone[0] == marker


@pytest.mark.parametrize("name", ["notes.json", ".json", "1 2.json", "-1.json"])
def test_what_else_lies_beside_states_is_no_state(name):
    store = MemoryStore()
    states, _ = states_in(store)
    save(states, 1)
    store.put(f"{OUTPUT}/{STATES}/{name}", b"{}")
    assert states.steps() == [1]
    assert is_of(states.newest(), 1)


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "marker"])
def test_one_that_is_damaged_is_passed_over_and_said_so(harm):
    store = MemoryStore()
    states, told = states_in(store)
    save(states, 1, 2)
    uri = f"{OUTPUT}/{STATES}/000000002/00000.safetensors"
    data = store.get(uri)
    if harm == "flipped":
        store.put(uri, data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "cut":
        store.put(uri, data[:50])
    elif harm == "gone":
        store.delete(uri)
    else:
        store.put(f"{OUTPUT}/{STATES}/000000002.json", b"{")
    assert is_of(states.newest(), 1)
    assert len(told) == 1
    assert "step 2 is passed over" in told[0]


def test_a_store_that_does_not_answer_is_no_missing_state():
    store = FlakyStore()
    states, _ = states_in(store)
    save(states, 1)
    store.trouble["_states"] = [StorageUnavailable("no answer")]
    with pytest.raises(StorageUnavailable):
        states.newest()


def test_without_the_right_to_delete_old_states_stay(monkeypatch):
    store = MemoryStore()
    states, _ = states_in(store)

    def refuse(uri):
        raise AccessDenied(f"no right to delete {uri}")

    monkeypatch.setattr(store, "delete", refuse)
    save(states, 1, 2, 3, 4)
    assert states.steps() == [4, 3, 2, 1]
