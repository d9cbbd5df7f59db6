import pytest
import torch

from workers.errors import SettingsError
from workers.hardware import settle_hardware
from workers.settings import LabelSettings


def settle(*flags: str) -> tuple[float | None, str]:
    given = ["--input", "/in", "--output", "/out", *flags]
    settings = settle_hardware(LabelSettings.from_everywhere(given, "label"))
    return settings.num_gpus_per_replica, settings.replica.precision


@pytest.fixture
def with_gpus(monkeypatch):
    """A machine with this many."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return lambda number: monkeypatch.setattr(torch.cuda, "device_count", lambda: number)


def test_what_is_left_open_is_decided_by_the_gpus_of_this_machine(with_gpus):
    with_gpus(0)
    assert settle() == (0.0, "fp32")
    with_gpus(2)
    assert settle() == (1.0, "bf16")
    assert settle("--num-gpus-per-replica", "0") == (0.0, "fp32")
    assert settle("--replica.precision", "fp32") == (1.0, "fp32")


def test_gpus_that_this_machine_has_not_are_refused_before_anything_starts(with_gpus):
    with_gpus(1)
    assert settle("--num-gpus-per-replica", "1") == (1.0, "bf16")
    with pytest.raises(SettingsError, match=r"--num-gpus-per-replica 2: this machine has 1\."):
        settle("--num-gpus-per-replica", "2")


def test_a_cluster_may_have_the_gpus_that_this_machine_has_not(with_gpus, monkeypatch):
    with_gpus(0)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert settle("--num-gpus-per-replica", "4") == (4.0, "bf16")
