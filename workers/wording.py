"""What people are told: the way to them, and numbers as they say them."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Tells the user what is going on."""


def to_nobody(text: str) -> None:
    """A `Say` for whoever doesn't want to know."""


def counted(number: int, noun: str) -> str:
    """A number of things: "1 shard", "1,000 shards"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """Seconds as people say them: "45 s", "3 min 05 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
