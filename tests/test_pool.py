import pytest

from workers.errors import SettingsError
from workers.hardware import settle_hardware
from workers.pool import Machine, PoolSize, _check_room, size_pool
from workers.settings import LabelSettings

LAPTOP = [Machine(cpus=8, gpus=0)]
CLUSTER = [Machine(cpus=4, gpus=0), Machine(cpus=32, gpus=4), Machine(cpus=32, gpus=4)]


def size(machines, *flags: str) -> PoolSize:
    given = ["--input", "/in", "--output", "/out", *flags]
    if "--num-gpus-per-replica" not in flags:
        given += ["--num-gpus-per-replica", "0"]
    return size_pool(settle_hardware(LabelSettings.from_everywhere(given, "label")), machines)


def test_a_laptop_gets_one_replica_with_all_its_processors():
    assert size(LAPTOP) == PoolSize(least=1, most=1, cpus=8, gpus=0)


def test_replicas_of_a_laptop_share_its_processors():
    assert size(LAPTOP, "--max-replicas", "3") == PoolSize(1, 3, 2, 0)
    assert size(LAPTOP, "--max-replicas", "30") == PoolSize(1, 30, 1, 0)


def test_a_cluster_gets_a_replica_for_each_gpu():
    assert size(CLUSTER, "--num-gpus-per-replica", "1") == PoolSize(1, 8, 1, 1)
    assert size(CLUSTER, "--num-gpus-per-replica", "0.5") == PoolSize(1, 16, 1, 0.5)
    assert size(CLUSTER, "--num-gpus-per-replica", "3") == PoolSize(1, 2, 1, 3)


def test_without_gpus_a_cluster_gets_a_replica_for_each_machine():
    assert size(CLUSTER) == PoolSize(1, 3, 4, 0)


def test_what_is_given_is_obeyed():
    flags = ("--min-replicas", "2", "--max-replicas", "5", "--replica.num-cpus", "3")
    assert size(CLUSTER, *flags) == PoolSize(2, 5, 3, 0)
    assert size(LAPTOP, "--min-replicas", "4") == PoolSize(4, 4, 2, 0)


def test_a_replica_that_fits_nowhere_is_refused_or_waited_for():
    needs = size(LAPTOP, "--num-gpus-per-replica", "1")
    told: list[str] = []
    with pytest.raises(SettingsError, match="lower --num-gpus-per-replica"):
        _check_room(needs, LAPTOP, own=True, say=told.append)
    _check_room(needs, LAPTOP, own=False, say=told.append)
    assert "waiting for the cluster to grow" in told[0]
    _check_room(needs, CLUSTER, own=True, say=told.append)
    assert len(told) == 1
