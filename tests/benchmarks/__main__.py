"""Measures how fast the project is, against other ways to the same results.

    python -m tests.benchmarks                      all parts
    python -m tests.benchmarks engine --models shipped --output results
    python -m tests.benchmarks --toy                minutes, to try it out: its numbers mean nothing

Prints a table for each comparison, with ratios and their spread over the repetitions. With --output
it also writes benchmarks.json (every time that was taken, and with what) and benchmarks.md. Ends
with 1 when a check did not hold: a contestant that says something else has no time.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

from tests.benchmarks.options import OptionError, Options
from tests.benchmarks.report import Table, look_around, show, write_results


def _part(name: str) -> Callable[[Options], Iterator[Table]]:
    def run(options: Options) -> Iterator[Table]:
        tables: Iterator[Table] = import_module(f"tests.benchmarks.{name}").run(options)
        return tables

    return run


NAMES = ("engine", "operations", "masks", "flops", "gpu", "line", "memory")
PARTS: Mapping[str, Callable[[Options], Iterator[Table]]] = {name: _part(name) for name in NAMES}
"""A part is a module whose `run` gives its tables one by one. It is imported when it is run: a
machine with a GPU needs no Ray for the part `gpu`."""


READERS: Mapping[str, Sequence[str]] = {
    "questions": ("engine", "operations"),
    "models": ("engine", "operations", "gpu", "line"),
    "replicas": ("line",),
    "shards": ("memory",),
}
"""Of the flags that not all parts read: those that do."""
EXAMPLES = """\
about how long the parts take on two cores, by themselves:
  engine   shipped 10 minutes, middle an hour     line     40 minutes
  masks    2 minutes                              memory   15 minutes
  flops    half a minute                          gpu      9 minutes; without a GPU a toy, a minute
  operations: shipped 3 minutes, middle a quarter of an hour

examples (the files in tests/benchmarks/results say with which command each was made):
  python -m tests.benchmarks engine --models middle --questions 64 --output FOLDER
  python -m tests.benchmarks engine --models shipped --output FOLDER
  python -m tests.benchmarks operations --models shipped --output FOLDER
  python -m tests.benchmarks line --models shipped,middle,sleeping,sleeping-many --output FOLDER
  python -m tests.benchmarks gpu --models muse/1/128/replay,single/1/128/replay --output FOLDER
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the parts that are asked for."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    own = {each.name: getattr(given, each.name) for each in fields(Options)}
    options = Options(**{name: value for name, value in own.items() if value is not None})
    if given.toy and given.repetitions is None:
        options = replace(options, repetitions=1)
    surroundings, tables = look_around(arguments), list[Table]()
    try:
        parts = check_parts(given.parts or PARTS)
        check_readers(given, parts)
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
        prog="python -m tests.benchmarks",
        description=text,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)} (default: all)")
    add("--repetitions", type=_positive, help="turns of every contestant (default: 5; a toy's: 1)")
    add(
        "--questions",
        type=_positive,
        help="of the parts engine and operations: asked at once, a multiple of 16 (default: 128)",
    )
    add(
        "--models",
        type=_names,
        help="of the parts engine and operations: shipped,middle, or with --toy own,scripted; of"
        " the part line:"
        " shipped,middle,sleeping,sleeping-many; of the part gpu: full, or cases such as"
        " muse/4/128/replay, which is answers like MUSE's (or single, long), 4 instructions per"
        " image, 128 questions under way at most, and steps that are recorded and replayed",
    )
    add("--replicas", type=_positive, help=f"of the part line (default: {Options().replicas})")
    add("--shards", type=_positive, help="of the part memory: the most (default: 100000)")
    add("--toy", action="store_true", help="tiny models, to try the benchmark itself; minutes")
    add("--output", type=Path, help="folder for benchmarks.json and benchmarks.md (default: none)")
    return parser


def check_parts(names: Iterable[str]) -> list[str]:
    """Refuses parts that there are not."""
    known = list(names)
    if unknown := [name for name in known if name not in PARTS]:
        raise OptionError(f"there is no part {unknown[0]!r}: known are {', '.join(PARTS)}")
    return known


def check_readers(given: argparse.Namespace, parts: Sequence[str]) -> None:
    """Refuses flags that none of the parts reads."""
    for flag, readers in READERS.items():
        if getattr(given, flag) is not None and not {*readers} & {*parts}:
            *most, last = readers
            names = f"{', '.join(most)} and {last} read" if most else f"{last} reads"
            raise OptionError(f"--{flag}: only {names} it")


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
