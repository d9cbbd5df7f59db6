"""The doctor as one types it, and its checks of this machine."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from jobs.doctor import main
from tests.conftest import free_ports
from workers.doctor import devices, examination, ray_cluster
from workers.doctor.devices import check_devices
from workers.doctor.examination import describe, exit_code
from workers.doctor.findings import Outcome, failure, ok, skipped, warning
from workers.doctor.versions import ROOT, check_packages, check_python

OK, WARNING, FAILURE, SKIPPED = Outcome.OK, Outcome.WARNING, Outcome.FAILURE, Outcome.SKIPPED


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No cluster, whatever runs on this machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster, "OWN_DASHBOARD", f"http://127.0.0.1:{free_ports(1)}")


# ---- as one types it ----


def test_a_machine_and_a_bucket_that_are_fine_end_with_0(bucket, capsys, tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"x")
    given = ["--input", f"{tmp_path}", "--output", f"s3://{bucket}/out", "--json"]
    assert main(given) == 0
    found = {each["check"]: each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["storage.output.conditions"]["outcome"] == "ok"
    assert found["weights.sizes"]["outcome"] == "ok"
    assert found["queue"]["outcome"] == "skipped"
    assert set(found["storage.input"]) == {"check", "outcome", "seen", "to_do"}


def test_one_failure_ends_with_1_and_says_what_to_do(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["--output", f"{tmp_path}/file/out"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL  storage.output.write" in printed
    assert "-> correct --output" in printed
    assert "1 failure" in printed.splitlines()[-1]


def test_a_bad_flag_ends_with_2(capsys):
    assert main(["--ouput", "x"]) == 2
    assert main(["--address", "head:8265"]) == 2
    said = capsys.readouterr().err
    assert "did you mean --output?" in said
    assert "'head:8265' is no address such as http://head:8265" in said


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    for flag in ("--input", "--output", "--model", "--queue-url", "--address", "--json"):
        assert flag in printed


def test_warnings_end_with_0_and_a_failure_among_them_with_1():
    fine = [ok("a", ""), warning("b", "", ""), skipped("c", "")]
    assert exit_code(fine) == 0
    assert exit_code([*fine, failure("d", "", "")]) == 1


def test_lines_of_a_message_stand_below_each_other():
    first, second, third = describe(failure("a.b", "one\ntwo", "do it")).splitlines()
    assert first.index("one") == second.index("two") == third.index("->")


# ---- versions ----


def test_the_packages_of_this_tree_are_found():
    (found,) = check_packages()
    assert found.outcome in (OK, WARNING), found


def copy_of_lists(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_another_version_than_was_tried_is_a_warning_that_names_both(tmp_path):
    constraints = copy_of_lists(tmp_path) / "constraints.txt"
    lines = [
        "pillow==0.1" if line.startswith("pillow==") else line
        for line in constraints.read_text().splitlines()
    ]
    constraints.write_text("\n".join(lines))
    (found,) = check_packages(tmp_path)
    assert found.outcome is WARNING
    assert "(tried: 0.1)" in found.seen
    assert "-c constraints.txt" in found.to_do


def test_a_package_that_is_missing_is_a_failure(tmp_path):
    project = copy_of_lists(tmp_path) / "pyproject.toml"
    project.write_text(project.read_text().replace('"pillow>=11.0"', '"no-such-package>=1"'))
    found = {each.outcome: each for each in check_packages(tmp_path)}
    assert "no-such-package" in found[FAILURE].seen


def test_where_the_lists_are_not_at_hand_nothing_is_compared(tmp_path):
    (found,) = check_packages(tmp_path)
    assert found.outcome is SKIPPED


def test_an_old_python_is_a_failure(monkeypatch):
    (found,) = check_python()
    assert found.outcome is OK
    monkeypatch.setattr("workers.doctor.versions.OLDEST", (4, 0))
    (found,) = check_python()
    assert found.outcome is FAILURE


# ---- devices ----


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_machine_without_a_gpu_is_nothing_to_complain_of(without_gpu, monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda _: None)
    (found,) = check_devices()
    assert found.outcome is SKIPPED


@pytest.mark.parametrize(("cuda", "said"), [(None, "without CUDA"), ("12.8", "sees no GPU")])
def test_a_driver_whose_gpus_torch_does_not_see_is_a_failure(without_gpu, monkeypatch, cuda, said):
    monkeypatch.setattr(devices.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    (found,) = check_devices()
    assert (found.outcome, said in found.seen) == (FAILURE, True)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that computes on the CPU; what it says of itself can be changed."""
    says = {"bf16": True, "memory": (70 * 2**30, 80 * 2**30), "kernels": None}
    ones = torch.ones
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda _: "A GPU",
        "mem_get_info": lambda _: says["memory"],
        "is_bf16_supported": lambda **_: says["bf16"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "ones", lambda *sizes, device: ones(*sizes))
    monkeypatch.setattr(devices, "why_no_kernels", lambda *_: says["kernels"])
    return says


def test_a_gpu_that_computes_is_told_with_its_memory(gpu):
    _, found, _ = check_devices()
    assert (found.outcome, found.seen) == (OK, "A GPU, 70.0 of 80.0 GiB free, bf16")


@pytest.mark.parametrize(
    ("what", "value", "said"), [("bf16", False, "no bf16"), ("memory", (1, 80), "0.0 of 0.0 GiB")]
)
def test_a_gpu_without_bf16_or_with_little_memory_free_is_a_warning(gpu, what, value, said):
    gpu[what] = value
    _, found, _ = check_devices()
    assert (found.outcome, said in found.seen) == (WARNING, True)


def test_a_gpu_that_triton_can_not_compile_for_is_a_warning(gpu):
    *_, found = check_devices()
    assert (found.check, found.outcome) == ("devices.kernels", OK)
    gpu["kernels"] = "kernels can't be compiled and run here"
    *_, found = check_devices()
    assert (found.outcome, found.seen) == (WARNING, gpu["kernels"])
    assert "run slower" in found.to_do


def test_a_gpu_whose_memory_others_have_is_a_warning_about_its_kernels(gpu, monkeypatch):
    full = Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory"))
    monkeypatch.setattr(devices, "why_no_kernels", full)
    *_, found = check_devices()
    assert (found.check, found.outcome) == ("devices.kernels", WARNING)
    assert "could not be tried: CUDA out of memory" in found.seen


def test_a_gpu_that_raises_or_computes_wrongly_is_a_failure(gpu, monkeypatch):
    def broken(*_, device):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch, "ones", lambda *sizes, device: torch.zeros(*sizes))
    _, found, _ = check_devices()
    assert (found.outcome, "computes wrongly" in found.seen) == (FAILURE, True)
    monkeypatch.setattr(torch, "ones", broken)
    _, found, _ = check_devices()
    assert (found.outcome, "device-side assert" in found.seen) == (FAILURE, True)


def test_every_group_of_checks_is_in_the_examination(tmp_path):
    settings = examination.DoctorSettings.from_flags([], "doctor")
    groups = {each.check.partition(".")[0] for each in examination.examine(settings)}
    assert groups == {"versions", "devices", "storage", "weights", "queue", "ray"}
