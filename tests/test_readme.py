"""The README tells the truth about files, commands and settings."""

import re

import pytest
from PIL import Image

from pixellm.drawn.scenes import TEST_SEEDS, draw_scene, render
from tests.labels import MADE_BY, label_photos
from tests.readme_tree import BEGIN, END, OTHERS, ROOT, columns, fields, modules, tree
from workers.drawn.settings import DrawnSettings
from workers.drawn.study_settings import AblateSettings
from workers.exports.formats import FORMATS as EXPORTS
from workers.exports.settings import ExportSettings
from workers.imports.formats import FORMATS as IMPORTS
from workers.imports.settings import ConvertSettings
from workers.labels.commits import Ledger
from workers.labels.schema import LABEL_SCHEMA, TARGET_TYPE
from workers.labels.table import PartIdentity, write_part
from workers.scoring.metrics import METRICS
from workers.scoring.settings import EvaluateSettings
from workers.settings import LabelSettings
from workers.settings_names import flag_of, leaves
from workers.storage.stores import Anywhere
from workers.training.settings import TrainSettings

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_is_the_one_on_disk():
    assert tree() in README, "run make docs"


def test_the_columns_are_those_of_the_label_table():
    assert columns() in README, "run make docs"


@pytest.mark.parametrize(
    ("row", "schema"), [("LabelRow", LABEL_SCHEMA), ("TargetRow", TARGET_TYPE)]
)
def test_every_column_says_what_it_means(row, schema):
    names = [f"`{column.name}`" + "?" * column.nullable for column in schema]
    assert [name for name, _ in fields(row)] == names
    assert [name for name, text in fields(row) if not text] == []


def test_every_module_says_what_it_is_for():
    assert [name for name, text in modules() if not text] == []


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_what_the_tree_names_beside_modules_is_there(name):
    assert (ROOT / name).exists()


def test_links_and_pictures_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize(
    ("job", "settings"),
    [
        ("label", [LabelSettings]),
        ("export", [ExportSettings]),
        ("convert", [ConvertSettings]),
        ("evaluate", [EvaluateSettings]),
        ("train", [TrainSettings, DrawnSettings]),
        ("ablate", [AblateSettings]),
    ],
)
def test_flags_of_the_jobs_in_the_readme_exist(job, settings):
    commands = re.findall(rf"python jobs/{job}\.py((?:[^\n`]|\\\n)*)", README)
    flags = {
        flag for command in commands for flag in re.findall(r"(--[a-z-]+(?:\.[a-z-]+)?)", command)
    }
    assert flags
    assert flags <= {flag_of(path) for each in settings for path in leaves(each)}


@pytest.mark.parametrize("job", [IMPORTS, EXPORTS])
def test_every_form_of_labels_has_a_command_in_the_readme(job):
    flag = "--from" if job is IMPORTS else "--to"
    assert {form for form in job if f"{flag} {form} " not in README} == set()


def test_every_metric_of_an_evaluation_stands_in_the_readme():
    (table,) = re.findall(r"\| metrics \| what they say \|\n(.*?)\n\n", README, flags=re.S)
    names = [line.split("|")[1] for line in table.splitlines()[1:]]
    assert sorted(re.findall(r"`(\w+)`", "".join(names))) == sorted(METRICS)


def test_commands_of_the_readme_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    outside_tree = README.split(BEGIN)[0] + README.split(END)[-1]
    assert set(re.findall(r"\bmake ([a-z-]+)\b", outside_tree)) <= targets | {"their"}


SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.S)
"""As a user pastes them."""


def test_the_snippet_for_the_engine_finds_masks(tmp_path, monkeypatch, capsys):
    (tmp_path / "pixellm").symlink_to(ROOT / "pixellm")
    scene = render(draw_scene(TEST_SEEDS[0]), 120, 160)
    Image.fromarray(scene.rgb).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    exec(SNIPPETS[1], {})
    assert re.fullmatch(r"the .* \[SEG\]\. \[[1-9]\d*\]\n", capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools under numpy 2
def test_the_snippet_reads_every_mask_that_counts(tmp_path, monkeypatch, capsys):
    snippet, _ = SNIPPETS
    rows, fingerprint = label_photos(), MADE_BY.label_fingerprint
    ledger = Ledger(Anywhere(), str(tmp_path / "labels"), "run-1")
    for number, row in enumerate(rows):
        shard_id = f"{number:020}"
        part = write_part([row], PartIdentity("run-1", shard_id, fingerprint))
        ledger.commit(shard_id, part, fingerprint=fingerprint, source="in", source_etag="e")
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    told = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert told == [str(target.area) for row in rows for target in row.targets]
