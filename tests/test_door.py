"""What the library offers under its own name."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from PIL import Image

import pixellm
from pixellm.drawn.scenes import draw_scene, render

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"^\s*from pixellm import", re.MULTILINE)


def code_of(path: Path) -> str:
    """A module without its docstring, which may show the door."""
    text = path.read_text()
    return text.replace(ast.get_docstring(ast.parse(text), clean=False) or "\0", "")


def test_the_example_in_the_docstring_runs_on_the_shipped_model(tmp_path, monkeypatch, capsys):
    Image.fromarray(render(draw_scene(4), 96, 96).rgb).save(tmp_path / "photo.png")
    (tmp_path / "model").symlink_to(ROOT / "pixellm" / "shipped" / "drawn")
    monkeypatch.chdir(tmp_path)
    example = re.search(r"((?:    .+\n|\n)+)", pixellm.__doc__.split("from here:\n", 1)[1])
    exec(dedent(example[1]), {})
    told = capsys.readouterr().out.splitlines()
    assert told
    assert all(re.fullmatch(r"the .*striped.* [1-9]\d* pixels", line) for line in told)


@pytest.mark.parametrize("name", pixellm.__all__)
def test_every_name_leads_to_the_module_that_defines_it(name):
    assert getattr(pixellm, name).__module__ == f"pixellm.{pixellm._MODULES[name]}"
    assert name in dir(pixellm)


def test_the_table_the_list_and_what_type_checkers_see_agree():
    tree = ast.parse(Path(pixellm.__file__).read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: f"{line.module}" for line in typed.body for alias in line.names}
    assert seen == {name: f"pixellm.{module}" for name, module in pixellm._MODULES.items()}
    assert sorted(seen) == sorted(pixellm.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Engin'"):
        _ = pixellm.Engin


def test_importing_it_imports_no_torch():
    code = (
        "import pixellm, sys; from pixellm import DecodeSettings; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_inside_the_project_names_come_from_the_module_that_defines_them():
    files = [
        path for part in ("pixellm", "workers", "jobs") for path in (ROOT / part).rglob("*.py")
    ]
    assert [str(path) for path in files if OUTSIDE.search(code_of(path))] == []
