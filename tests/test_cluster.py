import shutil
import signal
import socket
import time

import pytest
import ray

from tests.conftest import free_ports
from workers import cluster
from workers.cluster import _check_reachable, connected
from workers.errors import LineError, SettingsError


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "ray://127.0.0.1:{}/?a=b"])
def test_a_cluster_that_is_not_there_is_told_with_its_address(form, monkeypatch):
    address = form.format(free_ports(1))
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(cluster, "REACH_SECONDS", 0.2)
    monkeypatch.setattr(cluster, "PAUSE_SECONDS", 0.05)
    told: list[str] = []
    with pytest.raises(LineError) as error, connected(told.append):
        pass
    assert told == [f"connecting to the Ray cluster at {address}"]
    assert f"no Ray cluster can be reached at RAY_ADDRESS={address} (" in f"{error.value}"
    assert "unset RAY_ADDRESS to work on this machine" in f"{error.value}"


def test_the_longest_wait_for_a_cluster_is_below_20_seconds():
    # a head behind a firewall: every try takes its whole time
    assert cluster.REACH_SECONDS + cluster.TRY_SECONDS < 20


def test_a_cluster_that_is_just_starting_is_waited_for(monkeypatch):
    monkeypatch.setattr(cluster, "PAUSE_SECONDS", 0.01)
    tries = iter(["refused", "refused", ""])
    monkeypatch.setattr(cluster, "_try_to_reach", lambda host, port: next(tries))
    _check_reachable("head:6379")
    assert next(tries, None) is None


def test_a_cluster_that_listens_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        _check_reachable(f"127.0.0.1:{port}")
        _check_reachable(f"ray://localhost:{port}")
    if socket.has_dualstack_ipv6():
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as head:
            _check_reachable(f"[::1]:{head.getsockname()[1]}")


@pytest.mark.parametrize(
    "address",
    ["auto", "local", "/tmp/ray/ray_current_cluster", "anyscale://x:1"],
)
def test_addresses_of_other_forms_are_left_to_ray(address):
    started = time.monotonic()
    _check_reachable(address)
    assert time.monotonic() - started < 1


def test_the_address_for_jobs_is_told_apart_from_that_of_the_cluster():
    with pytest.raises(SettingsError, match="ray job submit"):
        _check_reachable("http://head:8265")


@pytest.mark.parametrize("address", ["127.0.0.1:99999", f"{'x' * 70}.example:1"])
def test_an_address_that_can_not_be_one_is_told_too(address, monkeypatch):
    monkeypatch.setattr(cluster, "REACH_SECONDS", 0.0)
    with pytest.raises(LineError, match="RAY_ADDRESS"):
        _check_reachable(address)


def test_who_asks_to_end_is_heard_beside_ray_and_after_it(monkeypatch):
    def heed(*_):
        pass

    def takes_over(*_, **__):  # as Ray does, at its start and at its end
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", takes_over)
    monkeypatch.setattr(ray, "shutdown", takes_over)
    before = signal.signal(signal.SIGTERM, heed)
    try:
        with connected(lambda _: None):
            assert signal.getsignal(signal.SIGTERM) is heed
        assert signal.getsignal(signal.SIGTERM) is heed
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_disk_without_room_for_ray_is_told_before_ray_waits_on_it(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", f"{tmp_path}/not/there/yet")
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(cluster, "LEAST_FREE_BYTES", 2 * free)
    told = []
    with pytest.raises(LineError) as error, connected(told.append):
        pass
    assert told == []
    assert f"Ray writes to '{tmp_path}/not/there/yet', where" in f"{error.value}"
    assert "RAY_TMPDIR=FOLDER" in f"{error.value}"
