import importlib.metadata
import json
import re
import shutil
import subprocess
import sysconfig
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deployment import INFRA
from tests.readme_tree import ROOT

DOCKERFILE = INFRA / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = {
    canonicalize_name(name): version
    for name, version in (
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    )
}


def test_the_linter_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    assert hadolint, "there is no hadolint: make setup installs it"
    done = subprocess.run(
        [hadolint, "--no-color", str(DOCKERFILE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_runs_as_a_nobody_with_a_number():
    assert re.findall(r"^USER (.*)$", TEXT, re.M) == ["1000:100"]


def test_it_starts_from_a_version_and_takes_nothing_from_the_net_but_packages():
    (image,) = re.findall(r"^FROM (\S+)", TEXT, re.M)
    assert re.fullmatch(r"python:3\.11-[\w-]+", image)
    assert not re.search(r"^ADD|curl|wget|https?://", TEXT, re.M)


def test_torch_comes_first_and_by_itself():
    first, second = re.findall(r"^RUN (?:python .*?)?.*?pip install.*?(?=^\S*$)", TEXT, re.M | re.S)
    assert "--no-deps" in first
    assert first.rstrip().endswith("torch")
    assert "--requirement" in second
    assert "--constraint constraints.txt" in first
    assert "--constraint constraints.txt" in second


def test_what_reaches_it_is_an_allow_list_without_tests_data_and_secrets():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    allowed = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    assert allowed == {
        *("constraints.txt", "pyproject.toml", "LICENSE"),
        *("pixellm", "workers", "jobs"),
    }
    assert all((ROOT / name).exists() for name in allowed)
    copied = re.findall(r"^COPY (.*) \S+$", TEXT, re.M)
    assert [set(each.split()) for each in copied] == [{"constraints.txt", "pyproject.toml"}, {"."}]


def wanted_by_the_image(capsys):
    """What its own line of Python prints."""
    (line,) = re.findall(r'python -c "(.*?)" > /tmp/wanted\.txt', TEXT, re.S)
    exec(line.replace("\\\n", ""), {})
    return capsys.readouterr().out.split()


def test_it_installs_what_the_project_says_that_it_needs(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = wanted_by_the_image(capsys)
    assert printed == [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["line"]]


def needed(requirement, extras=frozenset()):
    """A requirement and all that it needs in its turn, with the extras that were asked for."""
    name = canonicalize_name(requirement.name)
    wanted = {(name, frozenset(requirement.extras))}
    found = {name: str(requirement.specifier)}
    while wanted:
        name, extras = wanted.pop()
        for line in importlib.metadata.requires(name) or []:
            each = Requirement(line)
            if each.marker and not any(
                each.marker.evaluate({"extra": extra}) for extra in extras or {""}
            ):
                continue
            inner = canonicalize_name(each.name)
            if inner not in found or set(each.extras) - set(extras):
                found.setdefault(inner, str(each.specifier))
                wanted.add((inner, frozenset(each.extras)))
    return found


def test_the_lock_names_all_that_is_installed_in_it():
    found = {}
    for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["line"]]:
        found |= needed(Requirement(line))
    # torch names the CUDA packages of its build by their exact version, so they are locked, too
    open_ones = {name for name, how in found.items() if not how.startswith("==")}
    assert len(found) > 50
    assert open_ones - LOCK.keys() == set()
    for name in open_ones:
        assert importlib.metadata.version(name).partition("+")[0] == LOCK[name]


def test_its_command_is_one_that_there_is():
    (command,) = re.findall(r"^CMD (\[.*\])$", TEXT, re.M)
    python, job, _ = json.loads(command)
    assert python == "python"
    assert (ROOT / job).is_file()


@pytest.mark.parametrize("name", ["PYTHONPATH=/app", "RAY_AUTH_MODE=token", "HF_HUB_OFFLINE=1"])
def test_its_environment_says(name):
    assert f"    {name} \\\n" in TEXT
