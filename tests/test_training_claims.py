import os
import socket

import pytest

from tests.workbench import FlakyStore
from workers.errors import (
    AccessDenied,
    ConditionUnsupported,
    SettingsError,
    StorageUnavailable,
)
from workers.storage.memory import MemoryStore
from workers.training.claims import RUNNING, claimed

OUTPUT = "mem://b/out"
CLAIM = f"{OUTPUT}/{RUNNING}"


def test_while_a_run_learns_no_other_begins_in_its_output():
    store = MemoryStore()
    with claimed(store, OUTPUT, "plan", "model"):
        for other in (("plan 2", "model"), ("plan", "model 2")):
            with pytest.raises(SettingsError, match="another training run learns"):
                claimed(store, OUTPUT, *other).__enter__()
        with claimed(store, "mem://b/out2", "plan 2", "model"):
            pass
        assert store.find(CLAIM), "who was refused took nothing away"
    with claimed(store, OUTPUT, "plan 2", "model"):
        pass


def test_the_same_run_may_be_started_again_while_its_claim_is_there():
    store = MemoryStore()
    with claimed(store, OUTPUT, "plan"), claimed(store, OUTPUT, "plan"):
        pass
    assert store.find(CLAIM) is None


def test_of_workers_that_learn_together_one_takes_the_claim_away():
    store = MemoryStore()
    with claimed(store, OUTPUT, "plan"):
        with claimed(store, OUTPUT, "plan", releases=False):
            pass
        assert store.find(CLAIM)
    assert store.find(CLAIM) is None


def test_the_claim_of_another_run_is_left_where_it_is():
    store = MemoryStore()
    with claimed(store, OUTPUT, "plan"):
        store.delete(CLAIM)  # by somebody who thought that it was dead
        other = claimed(store, OUTPUT, "plan 2")
        other.__enter__()
    assert store.find(CLAIM)


def test_a_run_that_breaks_off_leaves_no_claim():
    store = MemoryStore()
    with pytest.raises(KeyboardInterrupt), claimed(store, OUTPUT, "plan"):
        raise KeyboardInterrupt
    assert store.find(CLAIM) is None


def gone(store):
    store.trouble[RUNNING] = [StorageUnavailable("no answer")]


def cut_off(store):
    store.put(CLAIM, b"{")


@pytest.mark.parametrize("harm", [gone, cut_off])
def test_a_claim_that_can_not_be_read_does_not_hide_why_a_run_ended(harm):
    store = FlakyStore()

    def run():
        with claimed(store, OUTPUT, "plan"):
            harm(store)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert store.find(CLAIM)


def test_what_a_killed_run_left_is_named_and_can_be_deleted():
    store = MemoryStore()
    killed = claimed(store, OUTPUT, "plan")
    killed.__enter__()
    with pytest.raises(SettingsError, match=f"if that run was killed, delete '{CLAIM}'"):
        claimed(store, OUTPUT, "plan 2").__enter__()
    store.delete(CLAIM)
    with claimed(store, OUTPUT, "plan 2"):
        pass


class Plain(MemoryStore):
    """A store without conditional writes, whose user may not delete."""

    def put_if_absent(self, uri, data):
        raise ConditionUnsupported("no such write")

    def delete(self, uri):
        raise AccessDenied(f"{uri} may not be deleted")


def test_a_store_without_conditions_or_deletes_is_enough():
    store = Plain()
    with claimed(store, OUTPUT, "plan"):
        pass
    with claimed(store, OUTPUT, "plan"):
        pass
    with pytest.raises(SettingsError, match="another training run learns"):
        claimed(store, OUTPUT, "plan 2").__enter__()


NOBODY = b'{"schema": 1, "plan": "p", "model": "", "began_at": "2026-11-26T10:00:00"}'


@pytest.mark.parametrize("data", [b"{}", b"no JSON", b'{"schema": 1, "plan": "p"}', NOBODY])
def test_a_claim_that_can_not_be_read_says_what_to_delete(data):
    store = MemoryStore()
    store.put(CLAIM, data)
    with pytest.raises(SettingsError, match=r"If nobody does, delete 'mem://b/out/_running.json'"):
        claimed(store, OUTPUT, "plan").__enter__()
    assert store.get(CLAIM) == data


def test_a_run_that_goes_on_after_a_kill_is_named_by_its_own_process():
    store = MemoryStore()
    killed = claimed(store, OUTPUT, "plan")
    killed.__enter__()
    dead = store.get(CLAIM).replace(f"process {os.getpid()}".encode(), b"process 1")
    store.put(CLAIM, dead)
    with claimed(store, OUTPUT, "plan", releases=False):
        assert store.get(CLAIM) == dead, "the one that writes says who it is"
    with claimed(store, OUTPUT, "plan"):
        assert f"process {os.getpid()} on".encode() in store.get(CLAIM)


def test_a_refusal_names_process_and_machine():
    store = MemoryStore()
    with (
        claimed(store, OUTPUT, "plan"),
        pytest.raises(SettingsError, match=f"process {os.getpid()} on {socket.gethostname()}"),
    ):
        claimed(store, OUTPUT, "plan 2").__enter__()
