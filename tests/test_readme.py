"""The README tells the truth about files, commands and settings."""

import re

import pytest

from tests.readme_tree import BEGIN, END, OTHERS, ROOT, columns, fields, modules, tree
from workers.labels.schema import LABEL_SCHEMA, TARGET_TYPE
from workers.settings import LabelSettings

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


def test_flags_of_the_label_job_in_the_readme_exist():
    commands = re.findall(r"python jobs/label\.py((?:[^\n`]|\\\n)*)", README)
    flags = {flag for command in commands for flag in re.findall(r"--([a-z-]+)", command)}
    assert flags
    known = {name.replace("_", "-") for name in LabelSettings.model_fields}
    assert flags <= known


def test_commands_of_the_readme_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    outside_tree = README.split(BEGIN)[0] + README.split(END)[-1]
    assert set(re.findall(r"\bmake ([a-z-]+)\b", outside_tree)) <= targets | {"their"}
