"""What a run of the benchmarks is told."""

from dataclasses import dataclass
from pathlib import Path


class OptionError(ValueError):
    """A setting that cannot be; the message says which would do."""


@dataclass(frozen=True, slots=True)
class Options:
    """The settings that all parts share."""

    repetitions: int = 5
    """turns of every contestant"""
    toy: bool = False
    """tiny models and few questions, to try the benchmark: no number means anything then"""
    questions: int | None = None
    """that the engine is asked at once; None: as many as each workload has by itself"""
    models: tuple[str, ...] | None = None
    """of the parts `engine` and `line` their models, of `gpu` its cases; None: all"""
    replicas: int = 2
    """of the part `line`"""
    shards: int | None = None
    """most shards of the part `memory`; None: as many as it has by itself"""
    output: Path | None = None
    """folder for the results"""
