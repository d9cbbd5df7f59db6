"""The tables of the part `gpu`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from tests.benchmarks.ceilings import Ceilings
from tests.benchmarks.flops import Costs
from tests.benchmarks.gpu_cases import Case
from tests.benchmarks.load import OTHER, SECTIONS, Window, total
from tests.benchmarks.profiling import STEPS, Profile
from tests.benchmarks.report import Table
from tests.benchmarks.roofline import Sizes, count_work, least_seconds
from tests.benchmarks.timing import significant, spread

GOAL = 45.0
"""Images per second of one H100, for answers like MUSE's and one instruction per image."""
COLUMNS = (
    "rows",
    "under way",
    "images per s",
    "questions per s",
    "ids",
    "targets",
    "runs a mask",
    "steps",
    "recorded",
    "ms a step",
    "p90",
    "FLOP/s, % of ceiling",
    "bytes/s in steps, % of ceiling",
    "images per s at the ceilings",
    "peak GB",
    "held GB",
    "remarks",
)
SHARES = (*SECTIONS, OTHER)
NOTES = (
    "Random weights, given answers and mask shapes; every layer is paid for. Steady load: as many"
    " questions wait as may be under way (rows); with rows 1 each comes when the one before is"
    " answered. replay: Engine(replay=True), steps padded, recorded and replayed; recorded: within"
    " the windows, after a warm-up, since an answer was longer than all before, say. Medians"
    " (least–most) of windows.",
    "under way: on average; fewer than rows where memory for keys and values is the limit, as in"
    " production. ids, targets: of an answer, on average. ms a step: of the engine, all that"
    " belongs to it counted (pictures and masks, too); steps in which new questions come in are"
    " the slow ones.",
    "FLOP/s: of what was answered, nothing that is done twice and no padding counted, over the"
    " whole time, against the measured product. bytes/s: weights once a step, keys and values of"
    " all rows, prefixes once a picture, over the time of steps and output layer, against the"
    " measured copy. At the ceilings: if nothing but this work took time.",
    "Raw numbers of each window, in the units that their names say.",
)
SHARES_NOTE = (
    "Percent of the time, on a GPU by events in its stream. pictures: CLIP, projectors, neck;"
    " prefixes: images in the language model; planning: which token goes where;"
    " steps: the language model on questions and answers; pictures ahead: those that questions wait"
    " about; pixel decoder: with the codebook; cutting: masks into the frame of the image, as runs;"
    " other: what is left. On a GPU, these three run beside the steps, in a stream of their own:"
    " they are part of no whole."
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case."""

    case: Case
    windows: tuple[Window, ...]
    peak: int
    """bytes of tensors"""
    reserved: int
    """bytes that were held for them"""
    out_of_memory: int
    """times that memory ran out, those included that the engine got over"""
    trouble: str = ""
    """why there is nothing, or what is to be known"""
    wrong: str = ""
    """why it does not count"""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What an outcome is measured by."""

    ceilings: Ceilings
    costs: Costs
    sizes: Sizes
    toy: bool


def summary(outcome: Outcome) -> str:
    """A line of progress."""
    found = [f"{outcome.case}:"]
    if outcome.windows:
        every = total(outcome.windows)
        found.append(f"{every.images / every.seconds:.3g} images/s,")
        found.append(f"{1000 * median(every.steps):.3g} ms a step,")
    found.append(f"peak {outcome.peak / 1e9:.2f} GB {outcome.trouble}")
    return " ".join(found).rstrip()


# ---- ceilings ----


def ceilings_table(about: Mapping[str, str], ceilings: Ceilings, dtype: torch.dtype) -> Table:
    """The device, and the most that was seen of it."""
    rows = [[name, text] for name, text in about.items()]
    tera = [rate / 1e12 for rate in ceilings.flops]
    giga = [rate / 1e9 for rate in ceilings.traffic]
    name = str(dtype).removeprefix("torch.")
    rows.append([f"large product in {name}, TFLOP/s", spread(tera)])
    rows.append(["large copy, read and written, GB/s", spread(giga)])
    raw = {"product, FLOP/s": ceilings.flops, "copy, bytes/s": ceilings.traffic}
    notes = ["Medians (least–most). Raw numbers are operations and bytes per second."]
    return Table("GPU: what the device can do", ("what", "found"), rows, notes, raw)


# ---- cases ----


def cases_table(title: str, outcomes: Sequence[Outcome], yardstick: Yardstick) -> Table:
    """Cases of one kind and number of instructions."""
    first, raw = outcomes[0].case, dict[str, Sequence[float]]()
    for outcome in outcomes:
        raw |= _raw(outcome, yardstick)
    rows = [make_row(outcome, yardstick) for outcome in outcomes]
    notes = list(NOTES)
    if (first.kind, first.instructions) == ("muse", 1) and not yardstick.toy:
        notes.append(_goal(outcomes))
    name = f"GPU: {_name(first)} ({title})"
    failures = [f"{each.case}: {each.wrong}" for each in outcomes if each.wrong]
    return Table(name, COLUMNS, rows, notes, raw, failures)


def _name(case: Case) -> str:
    return f"{case.kind} answers, instructions per image: {case.instructions}"


def shares_table(title: str, outcomes: Sequence[Outcome]) -> Table:
    """Where the time of these cases went."""
    rows = list[list[str]]()
    for outcome in outcomes:
        every = total(outcome.windows)
        shares = [
            f"{100 * every.sections[name] / every.seconds:.1f}" for name in SHARES if every.seconds
        ]
        rows.append([outcome.case.label, *(shares or ["–"] * len(SHARES))])
    name = f"GPU: where the time goes: {_name(outcomes[0].case)} ({title})"
    return Table(name, ("rows", *(f"{each} %" for each in SHARES)), rows, [SHARES_NOTE])


def make_row(outcome: Outcome, yardstick: Yardstick) -> list[str]:
    """One case; without windows only what went wrong."""
    if not outcome.windows:
        nothing = ["–"] * (len(COLUMNS) - 2)
        return [outcome.case.label, *nothing, outcome.trouble]
    every, windows = total(outcome.windows), outcome.windows
    measures = measure_up(every, yardstick)
    answers = len(every.answered)
    targets = sum(each.targets for each in every.answered)
    ms = [1000 * seconds for seconds in every.steps]
    return [
        outcome.case.label,
        f"{every.rows / len(ms):.1f}",
        spread([each.images / each.seconds for each in windows]),
        spread([len(each.answered) / each.seconds for each in windows]),
        f"{sum(each.ids for each in every.answered) / answers:.1f}",
        f"{targets / answers:.2f}",
        f"{sum(each.runs for each in every.answered) / max(1, targets):.0f}",
        str(len(ms)),
        str(every.recorded),
        significant(median(ms)),
        significant(float(np.percentile(ms, 90))),
        f"{100 * measures.flops:.1f}",
        f"{100 * measures.traffic:.1f}",
        significant(measures.images),
        f"{outcome.peak / 1e9:.2f}",
        f"{outcome.reserved / 1e9:.2f}",
        outcome.trouble or f"windows: {len(windows)}",
    ]


@dataclass(frozen=True, slots=True)
class Measures:
    """How a window compares with the ceilings."""

    flops: float
    """share of the product's rate, over the whole time"""
    traffic: float
    """share of the copy's rate, over steps and output layer"""
    images: float
    """per second, if nothing but the counted work took time"""


def measure_up(window: Window, yardstick: Yardstick) -> Measures:
    """Sets a window against the ceilings."""
    ceilings = yardstick.ceilings
    work = count_work(yardstick.costs, window.images, window.answered)
    stepping = window.sections["steps"] + window.sections["output layer"]
    least = least_seconds(work, len(window.steps), window.must_read, ceilings)
    return Measures(
        flops=work.total / window.seconds / ceilings.flop_rate,
        traffic=window.must_read / max(stepping, 1e-9) / ceilings.byte_rate,
        images=window.images / least,
    )


def _raw(outcome: Outcome, yardstick: Yardstick) -> dict[str, Sequence[float]]:
    windows, measures = outcome.windows, [measure_up(w, yardstick) for w in outcome.windows]
    found: dict[str, Sequence[float]] = {
        "images per s": [each.images / each.seconds for each in windows],
        "questions": [len(each.answered) for each in windows],
        "seconds": [each.seconds for each in windows],
        "steps": [len(each.steps) for each in windows],
        "recorded": [each.recorded for each in windows],
        "median seconds of a step": [median(each.steps) for each in windows],
        "p90 seconds of a step": [float(np.percentile(each.steps, 90)) for each in windows],
        "share of FLOP/s": [each.flops for each in measures],
        "share of bytes/s": [each.traffic for each in measures],
        "bytes that must be read": [each.must_read for each in windows],
        "peak bytes": [outcome.peak],
    }
    for name in SHARES:
        found[f"seconds of {name}"] = [each.sections[name] for each in windows]
    return {f"{outcome.case}: {name}": values for name, values in found.items()}


def _goal(outcomes: Sequence[Outcome]) -> str:
    rates = [
        (median([window.images / window.seconds for window in each.windows]), each.case.label)
        for each in outcomes
        if each.windows
    ]
    if not rates:
        return f"Goal: {GOAL:.0f} images per s on one H100; nothing was measured."
    best, rows = max(rates)
    return (
        f"Goal: {GOAL:.0f} images per s on one H100. Found: {best:.1f} with {rows} rows,"
        f" {best / GOAL:.3f} of it."
    )


# ---- from inside ----


def waiting_table(title: str, case: Case, places: Mapping[str, int], steps: int = STEPS) -> Table:
    """Lines of Python that wait for the GPU."""
    rows = [[place, str(times), f"{times / steps:.2f}"] for place, times in places.items()]
    notes = [
        f"Counted by torch in {steps} steps of the engine, warnings of set_sync_debug_mode. While"
        " Python waits, it starts nothing: the GPU idles afterwards until the next work comes.",
    ]
    if not places:
        rows = [["nothing counted: there is no GPU", "0", "0"]]
    raw = {place: [float(times)] for place, times in places.items()}
    return Table(
        f"GPU: where Python waits for it, {case} ({title})",
        ("line", "times", "times a step"),
        rows,
        notes,
        raw,
    )


def profile_table(title: str, case: Case, profile: Profile) -> Table:
    """The operations that take longest."""
    whole = profile.busy if profile.busy is not None else profile.watched
    rows = [
        [
            line.name[:90].replace("|", "/"),
            f"{1000 * line.seconds / profile.steps:.3f}",
            f"{100 * line.seconds / whole:.1f}",
            f"{line.calls / profile.steps:.1f}",
        ]
        for line in profile.lines
    ]
    each = [1000 * seconds / profile.steps for seconds in (profile.unwatched, profile.watched)]
    notes = [
        f"{profile.steps} steps of the engine under steady load: {each[0]:.2f} ms each without the"
        f" profiler, {each[1]:.2f} ms with it.",
        _busy(profile),
        "Times are those of the GPU, or without one of the CPU; what an operation calls is not"
        " counted. torch's own tables stand in a text file beside the results.",
    ]
    raw = {
        "seconds without the profiler": [profile.unwatched],
        "seconds with it": [profile.watched],
        "seconds in which the GPU worked": [] if profile.busy is None else [profile.busy],
        "kernels": [float(profile.kernels)],
    }
    columns = ("operation", "ms a step", "share %", "calls a step")
    return Table(f"GPU: profile of {case} ({title})", columns, rows, notes, raw)


def _busy(profile: Profile) -> str:
    if profile.busy is None:
        return "There is no GPU: nothing is known about how busy it would be."
    return (
        f"The GPU worked {1000 * profile.busy / profile.steps:.2f} ms a step:"
        f" {100 * profile.busy / profile.watched:.1f} % of the time they took with the profiler,"
        f" {100 * profile.busy / profile.unwatched:.1f} % of what others took without it (more or"
        " fewer questions may have entered with them);"
        f" {profile.kernels / profile.steps:.0f} kernels and copies a step."
    )
