"""Says again and again that this watcher is alive, while its main thread plans and labels."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from workers.errors import LineError
from workers.wording import Say


@contextmanager
def beating(seconds: float, beats: Sequence[Callable[[], None]], say: Say) -> Iterator[None]:
    """Calls each of the beats every so many seconds, until the block ends.

    Args:
        seconds: between two rounds.
        beats: what goes wrong in one is said when it is new, and does not keep the others.
        say: takes lines for the user.
    """
    ended = threading.Event()
    said = [""] * len(beats)

    def beat() -> None:
        while not ended.wait(seconds):
            for number, each in enumerate(beats):
                try:
                    each()
                    said[number] = ""
                except LineError as error:
                    if said[number] != f"{error}":
                        said[number] = f"{error}"
                        say(said[number])

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
