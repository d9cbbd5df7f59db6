"""What the README takes from elsewhere: tree of modules, columns of the label table, results.

The tree has every module with the first sentence of its docstring, the columns have the line below
each field in `workers.labels.schema`, the speeds are those of `tests/benchmarks/results`, what was
learned from real photos is that of `tests/domain_results`, and the ablations are those of
`tests/ablation_results`, as `jobs/ablate.py` wrote them.

python -m tests.readme_tree          says whether README.md is up to date
python -m tests.readme_tree --write  brings it up to date (make docs)
"""

import ast
import re
import sys
from itertools import pairwise
from pathlib import Path

from tests.readme_domains import domains
from tests.readme_speed import gpu_speeds, speeds

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pixellm", "workers", "jobs")
OTHERS = {
    "infra/grafana/": "a dashboard of what replicas tell Prometheus",
    "pixellm/shipped/": "checkpoints that come with the project",
    "pixellm/shipped/drawn/": "the small model that comes with the project, and its scores",
    "pixellm/QUIRKS.md": "what of the official code is reproduced, what is fixed, and why",
    "tests/": "mirror the modules; parity.py compares with the official code's numbers",
    "infra/": "from nothing to a labelled bucket on a cluster: its README has the commands",
    "infra/Dockerfile": "the image of head, workers and submitter, for CUDA or CPUs",
    "infra/aws/": "machines, roles, queue and news of a bucket, as the AWS tools take them",
    "infra/kuberay/": "Kubernetes objects: labelling, training, a nightly job, a watcher",
    "jobs/standing/": "settings of standing jobs, for jobs/watch.py --once --config",
    "Makefile": "the same few commands for people and for CI",
    "constraints.txt": "one set of versions that was tried together",
}
BEGIN, END = "<!-- tree: make docs -->\n", "<!-- end of tree -->\n"
COLUMNS_BEGIN, COLUMNS_END = "<!-- columns: make docs -->\n", "<!-- end of columns -->\n"
SPEED_BEGIN, SPEED_END = "<!-- speed: make docs -->\n", "<!-- end of speed -->\n"
GPU_BEGIN, GPU_END = "<!-- gpu: make docs -->\n", "<!-- end of gpu -->\n"
DOMAINS_BEGIN, DOMAINS_END = "<!-- domains: make docs -->\n", "<!-- end of domains -->\n"
ABLATION_BEGIN, ABLATION_END = "<!-- ablation: make docs -->\n", "<!-- end of ablation -->\n"
ABLATION = ROOT / "tests" / "ablation_results" / "table.md"
SCHEMA = ROOT / "workers" / "labels" / "schema.py"


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


def fields(row: str) -> list[tuple[str, str]]:
    """(name, meaning) of every field of a row's class; a `?` says that it may be null."""
    module = ast.parse(SCHEMA.read_text(encoding="utf-8"))
    classes = {each.name: each for each in module.body if isinstance(each, ast.ClassDef)}
    body = [*classes[row].body, ast.Pass()]
    found = []
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign):
            mark = "?" if "None" in ast.unparse(field.annotation) else ""
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            text = " ".join(str(below.value.value).split()) if is_text else ""
            found.append((f"`{ast.unparse(field.target)}`{mark}", text.replace("|", "\\|")))
    return found


def columns() -> str:
    """The block with the columns that stands in the README."""
    lines = ["<details><summary>All columns, one by one</summary>", ""]
    for head, row in (("column", "LabelRow"), ("field of a target", "TargetRow")):
        lines += [f"| {head} (`?`: may be null) | what it holds |", "|---|---|"]
        lines += [f"| {name} | {text} |" for name, text in fields(row)] + [""]
    return COLUMNS_BEGIN + "\n".join([*lines, "</details>"]) + "\n" + COLUMNS_END


def ablation() -> str:
    """The table of the ablations, with what its columns mean."""
    return ABLATION.read_text(encoding="utf-8")


def main() -> int:
    """Checks or writes the blocks."""
    readme = ROOT / "README.md"
    text = new = readme.read_text(encoding="utf-8")
    blocks = (
        (BEGIN, END, tree()),
        (COLUMNS_BEGIN, COLUMNS_END, columns()),
        (SPEED_BEGIN, SPEED_END, SPEED_BEGIN + speeds() + SPEED_END),
        (GPU_BEGIN, GPU_END, GPU_BEGIN + gpu_speeds() + GPU_END),
        (DOMAINS_BEGIN, DOMAINS_END, DOMAINS_BEGIN + domains() + DOMAINS_END),
        (ABLATION_BEGIN, ABLATION_END, ABLATION_BEGIN + ablation() + ABLATION_END),
    )
    for begin, end, block in blocks:
        new = re.sub(f"{begin}.*?{end}", lambda _, block=block: block, new, flags=re.S)
    if "--write" in sys.argv:
        readme.write_text(new, encoding="utf-8")
    elif new != text:
        print("README.md is not what the code says: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
