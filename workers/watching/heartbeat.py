"""Says again and again that this watcher is alive, while its main thread plans and labels."""

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from workers.errors import LineError
from workers.logs import Level
from workers.watching.telling import Say

LAST_BEAT_SECONDS = 5.0
"""For a beat that is under way at the end; a store that hangs must not keep a watcher from it."""


@contextmanager
def beating(
    seconds: float, beats: Sequence[Callable[[], None]], say: Say, give_up: Callable[[str], None]
) -> Iterator[None]:
    """Calls each of the beats every so many seconds, until the block ends.

    Args:
        seconds: between two calls of a beat.
        beats: each has a thread of its own, so that none waits for another. What goes wrong in one
            on purpose is said when it is new, and it goes on.
        say: takes lines for the user.
        give_up: is told of a bug: what is in hand can't be held any more, so the block should end.

    Raises:
        Exception: a bug in a beat, once the block has ended.
    """
    ended = threading.Event()
    bugs: list[Exception] = []

    def go_on(beat: Callable[[], None]) -> None:
        try:
            _repeat(beat, seconds, ended, say)
        except Exception as bug:
            if ended.is_set():  # it hung at the end, and the process is going down around it
                return
            bugs.append(bug)
            say(f"a bug in the heartbeat:\n{traceback.format_exc()}", Level.ERROR)
            give_up(f"a bug in the heartbeat ({bug!r})")

    threads = [
        threading.Thread(target=go_on, args=(each,), daemon=True, name="heartbeat")
        for each in beats
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(LAST_BEAT_SECONDS)
    if bugs:
        raise bugs[0]


def _repeat(beat: Callable[[], None], seconds: float, ended: threading.Event, say: Say) -> None:
    said = ""
    while not ended.wait(seconds):
        try:
            beat()
            said = ""
        except LineError as error:
            if said != f"{error}":
                said = f"{error}"
                say(said, Level.ERROR)
