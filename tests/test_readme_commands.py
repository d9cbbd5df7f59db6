"""The series of commands in the README, typed one after the other on real photos."""

import json
import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest

from tests.gold import write
from tests.photos import FOLDER, load_photos
from tests.processes import SECONDS
from tests.readme_tree import ROOT
from tests.test_imports_muse import source
from workers.labels.parts import open_table
from workers.storage.stores import open_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray(last=True),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray warns of its own settings
]

MARK = "<!-- tried by tests/test_readme_commands.py -->\n"
SERIES = [
    [line.strip() for line in part.split("<!-- end -->")[0].splitlines() if line.strip()]
    for part in (ROOT / "README.md").read_text(encoding="utf-8").split(MARK)[1:]
]
SMALLER = {
    "train": ["--steps", "4", "--batch", "2", "--accumulate", "1", "--evaluate-rows", "4"],
    "label": ["--decoding.max-new-tokens", "40", "--max-replicas", "1"],
}
"""Flags that come behind those of the README, for the time that they take."""


@pytest.fixture
def type_in(tmp_path, monkeypatch, capsys):
    """What a person would type in a folder of theirs; what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}")

    def run(command, bucket="bucket"):
        python, script, *given = shlex.split(command.replace("s3://bucket", f"s3://{bucket}"))
        job = re.fullmatch(r"jobs/(\w+)\.py", script)[1]
        flags = [*given, *SMALLER.get(job, [])]
        assert python == "python"
        if job == "label":  # in a process of its own, which starts Ray
            done = subprocess.run(
                [sys.executable, f"{ROOT}/{script}", *flags],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            code, told, complaint = done.returncode, done.stdout, done.stderr
        else:
            code = import_module(f"jobs.{job}").main(flags)
            told, complaint = capsys.readouterr()
        assert code == 0, f"{command}\n{told}\n{complaint}"
        return told

    return run


def test_from_corrections_to_a_labelled_bucket(type_in, tmp_path, bucket):
    (tmp_path / "corrections").mkdir()
    for path in FOLDER.iterdir():
        (tmp_path / "corrections" / path.name).write_bytes(path.read_bytes())
    store = open_store(f"s3://{bucket}")
    for photo in load_photos()[:2]:
        store.put(f"s3://{bucket}/photos/{photo.name}", photo.data)
    commands = next(each for each in SERIES if "corrections" in each[0])
    assert len(commands) == 5
    for command in commands:
        type_in(command, bucket)
    labels = f"s3://{bucket}/labels"
    rows = list(open_table(store, labels, None).rows())
    assert {row.image_uri for row in rows} == {
        f"s3://{bucket}/photos/{photo.name}" for photo in load_photos()[:2]
    }
    assert {row.instruction for row in rows} == {"the dog"}
    assert len(json.loads((tmp_path / "corrections-next.json").read_text())["images"]) <= 2
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_a_data_set_of_questions_is_answered_and_scored(type_in, tmp_path):
    muse = source(tmp_path)
    write(tmp_path / "MUSE_val.json", json.loads(muse.read_text()))
    (tmp_path / "coco").symlink_to(FOLDER)
    commands = next(each for each in SERIES if "MUSE_val.json" in each[0])
    told = [type_in(command) for command in commands]
    assert "questions/s with the model loaded" in told[2]
    scores = json.loads((tmp_path / "scores.json").read_text())["groups"]["all"]
    gold = list(open_table(open_store(""), f"{tmp_path}/gold/val", None).rows())
    asked = [row for row in gold if row.status in ("ok", "empty")]
    assert scores["scores"]["answered"] == 1.0
    assert scores["sums"]["questions"] == len(asked)
