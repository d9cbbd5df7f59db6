"""Measures how fast the project is, against other ways to the same results.

    python -m tests.benchmarks                      all parts
    python -m tests.benchmarks engine --models shipped --output results
    python -m tests.benchmarks --toy                seconds, to try it out: its numbers mean nothing

Prints a table for each comparison, with ratios and their spread over the repetitions. With --output
it also writes benchmarks.json (every time that was taken, and with what) and benchmarks.md. Ends
with 1 when a check did not hold: a contestant that says something else has no time.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path

from tests.benchmarks.options import OptionError, Options
from tests.benchmarks.report import Table, look_around, show, write_results


def _part(name: str) -> Callable[[Options], Iterator[Table]]:
    def run(options: Options) -> Iterator[Table]:
        tables: Iterator[Table] = import_module(f"tests.benchmarks.{name}").run(options)
        return tables

    return run


NAMES = ("engine", "masks", "flops", "gpu", "line", "memory")
PARTS: Mapping[str, Callable[[Options], Iterator[Table]]] = {name: _part(name) for name in NAMES}
"""A part is a module whose `run` gives its tables one by one. It is imported when it is run: a
machine with a GPU needs no Ray for the part `gpu`."""


def main(arguments: Sequence[str]) -> int:
    """Runs the parts that are asked for."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    options = Options(**{each.name: getattr(given, each.name) for each in fields(Options)})
    surroundings, tables = look_around(arguments), list[Table]()
    try:
        parts = check_parts(given.parts or PARTS)
        check_output(options.output)
        for part in parts:
            for table in PARTS[part](options):
                tables.append(table)
                show(table)
                if options.output:  # after each: a run that is broken off keeps what it has
                    write_results(options.output, surroundings, tables)
    except OptionError as error:
        parser.error(str(error))
    failures = [failure for table in tables for failure in table.failures]
    print("\n".join(f"FAILED: {failure}" for failure in failures) or "all checks hold")
    return 1 if failures else 0


def make_parser() -> argparse.ArgumentParser:
    """The flags; what each means stands at `Options`."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=text, allow_abbrev=False
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    add("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)} (default: all)")
    add("--repetitions", type=_positive, default=5, help=f"turns of every contestant {default}")
    add("--questions", type=_positive, help="asked of the engine at once (default: 128)")
    add(
        "--models",
        type=_names,
        help="of the part engine: shipped,middle, or with --toy own,scripted; of the part line:"
        " shipped,middle,sleeping; of the part gpu: its cases, such as muse/1/128 (see"
        " tests/benchmarks/gpu.py)",
    )
    add("--replicas", type=_positive, default=2, help=f"of the part line {default}")
    add("--shards", type=_positive, help="of the part memory (default: 100000)")
    add("--toy", action="store_true", help="the tiny model, to try the benchmark itself")
    add("--output", type=Path, help="folder for benchmarks.json and benchmarks.md (default: none)")
    return parser


def check_parts(names: Iterable[str]) -> list[str]:
    """Refuses parts that there are not."""
    known = list(names)
    if unknown := [name for name in known if name not in PARTS]:
        raise OptionError(f"there is no part {unknown[0]!r}: known are {', '.join(PARTS)}")
    return known


def check_output(folder: Path | None) -> None:
    """Refuses a place that nothing can be written to, before an hour has been measured."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OptionError(f"--output {str(folder)!r} can't be written to: {error}") from error


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 1 on")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
