"""What the part `gpu` measures: cases, those that a run takes, and those that are asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace

from tests.benchmarks.answer_lengths import KINDS
from tests.benchmarks.inputs import INSTRUCTIONS, TOYS, WORKLOADS
from tests.benchmarks.options import OptionError


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """Something to measure."""

    kind: str
    """of the answers"""
    instructions: int
    """per image"""
    rows: int
    """questions under way at most"""
    replay: bool = False
    """whether steps are padded to few shapes, recorded and replayed"""

    def __str__(self) -> str:
        return f"{self.kind}/{self.instructions}/{self.rows}{'/replay' * self.replay}"

    @property
    def label(self) -> str:
        """Within a table."""
        return f"{self.rows}{', replay' * self.replay}"


ROWS = (1, 4, 16, 64, 128, 256)
"""Questions under way at most."""
MAIN = Case("muse", 1, 128)
"""What is profiled, plain and replayed."""
PLAIN = (
    *(Case("muse", 1, rows) for rows in ROWS),
    *(Case("muse", n, rows) for n in INSTRUCTIONS[1:] for rows in (16, 64, 128, 256)),
    *(Case("single", 1, rows) for rows in (1, 128, 256)),
    *(Case("long", 1, rows) for rows in (64, 128)),
)
REPLAYED = (
    *(Case("muse", 1, rows) for rows in (1, 16, 64, 128, 256)),
    *(Case("muse", n, 128) for n in INSTRUCTIONS[1:]),
    *(Case(kind, 1, 128) for kind in ("single", "long")),
)
TOY_MAIN = Case("muse", 1, 8)
TOY_PLAIN = (Case("muse", 1, 1), TOY_MAIN, Case("muse", 4, 8), Case("single", 1, 8))
TOY_REPLAYED = (TOY_MAIN,)
FULL = "full"


def choose_cases(names: Sequence[str] | None, *, toy: bool) -> Sequence[Case]:
    """The cases of --models; names of the part `engine` there are none of ours.

    Raises:
        OptionError: a case that there is not.
    """
    own = [name for name in names or () if name not in {*WORKLOADS, *TOYS}]
    if FULL in own:
        plain = [Case(kind, n, rows) for kind in KINDS for n in INSTRUCTIONS for rows in ROWS]
        return _in_order(plain, plain)
    if own:
        return _in_order([_read_case(name) for name in own])
    return _in_order(TOY_PLAIN, TOY_REPLAYED) if toy else _in_order(PLAIN, REPLAYED)


def _in_order(plain: Iterable[Case], replayed: Iterable[Case] = ()) -> list[Case]:
    """Kinds as they come; in each instructions, then rows, then plain before replayed."""
    cases = [*plain, *(replace(case, replay=True) for case in replayed)]
    kinds = list(dict.fromkeys(case.kind for case in cases))
    return sorted(cases, key=lambda case: (kinds.index(case.kind), *astuple(case)[1:]))


def _read_case(name: str) -> Case:
    kind, *numbers = name.removesuffix("/replay").split("/")
    if kind not in KINDS or len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
        kinds = ", ".join(KINDS)
        raise OptionError(
            f"--models {name}: must be {FULL} or like muse/1/128 or muse/1/128/replay, of {kinds}"
        )
    instructions, rows = map(int, numbers)
    if not instructions or not rows:
        raise OptionError(f"--models {name}: instructions and rows begin with 1")
    return Case(kind, instructions, rows, name.endswith("/replay"))
