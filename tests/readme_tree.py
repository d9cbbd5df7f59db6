"""The README's tree: every module with the first sentence of its docstring.

python -m tests.readme_tree          says whether README.md is up to date
python -m tests.readme_tree --write  brings it up to date (make docs)
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pixellm", "workers", "jobs")
OTHERS = {
    "pixellm/shipped/": "checkpoints that come with the project",
    "pixellm/shipped/drawn/": "the small model that comes with the project, and its scores",
    "pixellm/QUIRKS.md": "what of the official code is reproduced, what is fixed, and why",
    "tests/": "mirror the modules; parity.py compares with the official code's numbers",
    "Makefile": "the same few commands for people and for CI",
    "constraints.txt": "one set of versions that was tried together",
}
BEGIN, END = "<!-- tree: make docs -->\n", "<!-- end of tree -->\n"


def caption(path: Path) -> str:
    """First sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = re.split(r"(?<=\.)\s", text.replace("\n", " "), maxsplit=1)[0].rstrip(".")
    return first.strip()


def modules() -> list[tuple[str, str]]:
    """(path, caption) of every package and module."""
    rows = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if path.name == "__init__.py":
                name = name.removesuffix("__init__.py")
            rows.append((name, caption(path)))
    return rows


def _place(row: tuple[str, str]) -> tuple[bool, list[str]]:
    """Folders before the files beside them."""
    return "/" not in row[0], row[0].split("/")


def tree() -> str:
    """The block that stands in the README."""
    rows = sorted([*modules(), *OTHERS.items()], key=_place)
    lines = []
    for name, text in rows:
        depth = name.rstrip("/").count("/")
        shown = "  " * depth + name.rstrip("/").rsplit("/", 1)[-1] + "/" * name.endswith("/")
        lines.append(f"{shown:<30} {text}".rstrip())
    return BEGIN + "```\n" + "\n".join(lines) + "\n```\n" + END


def main() -> int:
    """Checks or writes the block."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    new = re.sub(f"{BEGIN}.*?{END}", lambda _: tree(), text, flags=re.S)
    if "--write" in sys.argv:
        readme.write_text(new, encoding="utf-8")
    elif new != text:
        print("README.md's tree is out of date: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
