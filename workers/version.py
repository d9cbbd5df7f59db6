"""The version of this code, which every label is written down with."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def code_version() -> str:
    """The version of this code: of its own tree if that is at hand, else of what is installed."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    try:
        return version("pixellm-workers")
    except PackageNotFoundError:
        return "unknown"
