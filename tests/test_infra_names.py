import ast
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.deployment import FILES, INFRA, STANDING
from tests.readme_tree import ROOT
from workers.doctor.settings import DoctorSettings
from workers.exports.settings import ExportSettings
from workers.piloting.settings import PlanSettings
from workers.settings import LabelSettings
from workers.settings_names import leaves, variable_of
from workers.settings_sources import FlagSettings, SettingsTree
from workers.training.settings import TrainSettings
from workers.watching.settings import WatchSettings

SETTINGS: dict[str, type[FlagSettings]] = {
    "doctor": DoctorSettings,
    "export": ExportSettings,
    "label": LabelSettings,
    "plan": PlanSettings,
    "train": TrainSettings,
    "watch": WatchSettings,
}
"""What each job that infra/ starts can be told."""
WITHOUT = {"demo"}
"""Jobs that have no such class: their flags are not looked at."""
_COMMAND = re.compile(r"jobs/(\w+)\.py([^`\n]*)")
_END = {"&&", "||", "|", ";", ">", ">&2"}


@dataclass(frozen=True)
class Command:
    file: str
    job: str
    flags: tuple[str, ...]


def texts(path: Path) -> Iterator[str]:
    """A file's text, its broken lines and Docker's words joined; of YAML, also each text in it.

    Variables that stand for buckets are the names that the files have.
    """
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"\$(PHOTOS|LABELS|MODELS)\b", lambda name: f"example-{name[1].lower()}", text)
    yield re.sub(r'\\\n\s*|", "', " ", text)
    if path.suffix == ".yaml":
        for document in yaml.safe_load_all(text):
            yield from _in(document)


def _in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _in(each)
    elif isinstance(value, list):
        if all(isinstance(each, str) for each in value):
            yield shlex.join(value)
        for each in value:
            yield from _in(each)


def commands() -> Iterator[Command]:
    for path in FILES:
        for text in texts(path):
            for job, rest in _COMMAND.findall(text):
                yield Command(path.relative_to(ROOT).as_posix(), job, tuple(_flags(rest)))


def _flags(rest: str) -> Iterator[str]:
    """The words behind a job's name, up to where the shell ends the command."""
    if not rest.startswith(" -"):  # a sentence that names the job
        return
    for word in re.findall(r"'[^']*'|\"[^\"]*\"|\S+", rest):
        if word in _END or word[0] in "(#,":
            return
        yield word.strip("'\",]")


COMMANDS = sorted(set(commands()), key=lambda each: (each.file, each.job, each.flags))
CHECKED = [each for each in COMMANDS if each.job in SETTINGS and any(each.flags)]


def test_commands_are_found_wherever_they_stand():
    where = {(each.file, each.job) for each in COMMANDS if each.flags}
    assert {
        ("infra/Dockerfile", "label"),
        ("infra/README.md", "doctor"),
        ("infra/README.md", "export"),
        ("infra/README.md", "label"),
        ("infra/README.md", "plan"),
        ("infra/README.md", "watch"),
        ("infra/kuberay/label/job.yaml", "label"),
        ("infra/kuberay/nightly/job.yaml", "watch"),
        ("infra/kuberay/train/job.yaml", "train"),
        ("infra/kuberay/watch/driver.yaml", "watch"),
        ("jobs/standing/nightly.yaml", "watch"),
    } <= where
    assert any("--parallel" in each.flags and "fsdp" in each.flags for each in CHECKED)


def test_every_job_that_is_started_is_known():
    named = {each.job for each in COMMANDS}
    assert named <= SETTINGS.keys() | WITHOUT


@pytest.mark.parametrize("command", CHECKED, ids=lambda each: f"{each.file}-{each.job}")
def test_every_command_is_one_that_its_job_accepts(command, monkeypatch):
    settings = SETTINGS[command.job]
    if "--help" in command.flags:
        return
    flags = list(command.flags)
    if "--config" in flags:  # in a pod or a bucket; here it stands among the standing jobs
        at = flags.index("--config") + 1
        flags[at] = str(STANDING / flags[at].rpartition("/")[2])
    fill = settings.from_everywhere if issubclass(settings, SettingsTree) else settings.from_flags
    assert fill(flags, f"python jobs/{command.job}.py")


@pytest.mark.parametrize("path", sorted(STANDING.glob("[!k]*.yaml")), ids=lambda path: path.stem)
def test_every_standing_job_is_one_that_its_job_accepts(path):
    job = re.search(r"jobs/(\w+)\.py", path.read_text(encoding="utf-8"))[1]
    settings = SETTINGS[job].from_everywhere(["--config", f"{path}"], f"python jobs/{job}.py")
    assert settings.input.startswith("s3://")


def test_every_variable_is_one_that_a_job_knows():
    known = {
        variable_of(path)
        for settings in SETTINGS.values()
        if issubclass(settings, SettingsTree)
        for path in leaves(settings)
    }
    for path in FILES:
        named = re.findall(r"\bPIXELLM_[A-Z0-9_]*[A-Z0-9]", path.read_text(encoding="utf-8"))
        assert set(named) <= known, path


def test_every_job_that_runs_on_a_head_without_gpu_is_told_of_gpus():
    label_like = [
        each
        for each in COMMANDS
        if each.job in ("label", "watch") and any(flag.startswith("--input") for flag in each.flags)
    ]
    assert len(label_like) >= 3
    for each in label_like:
        assert any(flag.startswith("--num-gpus-per-replica") for flag in each.flags), each
    for path in STANDING.glob("[!k]*.yaml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["num_gpus_per_replica"] == 1


def test_all_files_speak_of_the_same_buckets_account_and_region():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"(?:s3://|arn:aws:s3:::)([a-z-]+)", text)) <= {
            *("example-photos", "example-labels", "example-models"),
        }, path
        assert set(re.findall(r"\b\d{12}\b", text)) <= {"111122223333"}, path
        assert set(re.findall(r"\b[a-z]{2}-[a-z]+-\d\b", text)) <= {"eu-central-1"}, path


def test_paths_that_the_readme_names_are_there():
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    links += [f"../{path}" for path in re.findall(r"(?:file://|-k |-f )(infra/[\w./-]+)", text)]
    assert len(links) > 20
    for link in links:
        assert (INFRA / link).exists(), link


def test_the_example_for_airflow_is_python():
    (example,) = re.findall(
        r"```python\n(.*?)```", (INFRA / "README.md").read_text(encoding="utf-8"), re.S
    )
    assert "max_active_runs" in ast.unparse(ast.parse(example))


def test_the_names_of_the_files_give_way_to_ones_own_and_the_readme_stays_as_it_is(tmp_path):
    for folder in ("infra", "jobs/standing"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    readme = (INFRA / "README.md").read_text(encoding="utf-8")
    step = readme.partition("## 1. Your names")[2].partition("## 2.")[0]
    (command,) = re.findall(r"^    grep .*?[^\\]$", step, re.M | re.S)
    own = {"ACCOUNT": "444455556666", "AWS_REGION": "us-west-2", "PHOTOS": "our-photos"}
    own |= {"LABELS": "our-labels", "MODELS": "our-models"}
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env={**os.environ, **own}, check=True)
    assert (tmp_path / "infra" / "README.md").read_text(encoding="utf-8") == readme
    for path in sorted(tmp_path.rglob("*.*")):
        if path.name != "README.md" and path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"111122223333|eu-central-1|example-", text), path
    queue = "arn:aws:sqs:us-west-2:444455556666:pixellm-news"
    policy = json.loads((tmp_path / "infra/aws/queue-policy.json").read_text(encoding="utf-8"))
    assert policy["Statement"][0]["Resource"] == queue
    standing = yaml.safe_load((tmp_path / "jobs/standing/nightly.yaml").read_text(encoding="utf-8"))
    assert standing["output"] == "s3://our-labels/drops"


def test_commands_of_the_readme_have_no_made_up_names_that_nothing_replaces():
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    steps = text.partition("## 2.")[2].partition("## Schedules elsewhere")[0]
    assert not re.search(r"111122223333|eu-central-1|example-", steps)


def test_settings_that_a_schedule_takes_from_a_bucket_are_put_there_by_a_command():
    text = (INFRA / "README.md").read_text(encoding="utf-8").replace("$MODELS", "example-models")
    taken = set(re.findall(r"--config (s3://[^\s\"]+)", text))
    copied = re.findall(r"aws s3 cp (\S+) (s3://\S+)", text)
    assert taken == {place for path, place in copied if (ROOT / path).is_file()} != set()
