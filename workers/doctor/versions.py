"""Checks of versions: Python, and the packages beside those that were tried together."""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from workers.doctor.findings import Finding, failure, ok, skipped, warning

ROOT = Path(__file__).parents[2]
OLDEST = (3, 11)
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def check_python() -> Iterator[Finding]:
    """Whether this Python is new enough."""
    here = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST:
        yield failure("versions.python", f"Python {here}", "take Python 3.11 or newer")
    else:
        yield ok("versions.python", f"Python {here}")


def check_packages(root: Path = ROOT) -> Iterator[Finding]:
    """Whether what is installed is what was tried together, as `constraints.txt` has it."""
    name = "versions.packages"
    try:
        wanted = list(_needed(root))
        tried = _constraints(root)
    except OSError as error:
        yield skipped(name, f"the project's files are not at hand ({error.strerror})")
        return
    here = {each: _installed(each) for each in wanted}
    if missing := sorted(each for each, found in here.items() if not found):
        yield failure(name, f"not installed: {', '.join(missing)}", "pip install -e '.[line]'")
    others = [
        f"{each} {found} (tried: {tried[each]})"
        for each, found in sorted(here.items())
        if found and tried.get(each) not in (None, found)
    ]
    if others:
        to_do = "pip install -c constraints.txt -e '.[line]', or run the tests with these"
        yield warning(name, f"other versions than tried: {', '.join(others)}", to_do)
    elif not missing:
        yield ok(name, f"{len(here)} packages, all as tried (torch {here.get('torch')})")


def _needed(root: Path) -> Iterator[str]:
    """What the project says that it needs, by name."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for needed in (*project["dependencies"], *project["optional-dependencies"]["line"]):
        if found := _NAME.match(needed):
            yield found[0].lower()


def _constraints(root: Path) -> Mapping[str, str]:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("==") for line in lines if "==" in line)
    return {name.strip().lower().replace("_", "-"): tried.strip() for name, _, tried in pairs}


def _installed(name: str) -> str:
    """Without what stands behind a `+`: which build of torch it is, is another check's."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""
