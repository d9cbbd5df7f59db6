"""How a job ends: its exit code, and what is told where it was no good end."""

import errno
import os
import sys
import tempfile
from collections.abc import Callable

from pixellm.errors import PixelLMError
from workers.errors import SettingsError, StorageUnavailable
from workers.wording import Say

BROKE_OFF, WRONG, ENDED_EARLY, INTERRUPTED = 1, 2, 3, 130
"""Something failed on the way; a setting or the input is wrong; it ended early, on purpose;
Ctrl-C, as shells count it."""
MISSED = 3
"""All was done, and what came out is not as good as it was asked to be: of a job that never ends
early."""
KEPT = "stopped; what is committed is kept"
"""After Ctrl-C, of a job whose next start goes on."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def speaker(job: str) -> Say:
    """What tells a user a line, on standard error, with the job's name before it."""

    def say(text: str) -> None:
        print(f"{job}: {text}", file=sys.stderr, flush=True)

    return say


def end(
    work: Callable[[], int],
    say: Say,
    complain: Say | None = None,
    *,
    wrong: tuple[type[PixelLMError], ...] = (SettingsError,),
    interrupted: str = "stopped",
) -> int:
    """Does the work of a job; what goes wrong on purpose ends in lines and not in a traceback.

    So does a full disk. Those of inputs, outputs and models have their own errors, which name the
    file: what is left are temporary files.

    Args:
        work: returns the exit code.
        say: takes lines for the user.
        complain: takes those that say what went wrong; without it, `say` does.
        wrong: the errors that say that nothing can be done with such settings or such an input. A
            store that doesn't answer is never one of them.
        interrupted: what is told after Ctrl-C.

    Returns:
        The exit code. A bug is raised, as everywhere.
    """
    try:
        return work()
    except PixelLMError as error:
        for line in f"{error}".splitlines():
            (complain or say)(line)
        is_wrong = isinstance(error, wrong) and not isinstance(error, StorageUnavailable)
        return WRONG if is_wrong else BROKE_OFF
    except OSError as error:
        if not _is_about_room(error):
            raise
        (complain or say)(_describe_full_disk(error))
        return BROKE_OFF
    except KeyboardInterrupt:
        say(interrupted)
        return INTERRUPTED


def _is_about_room(error: OSError) -> bool:
    """Whether a disk is full; where all folders for temporary files are, Python finds none."""
    return error.errno in _NO_ROOM or "No usable temporary directory" in f"{error}"


def _describe_full_disk(error: OSError) -> str:
    try:
        folder = tempfile.gettempdir()
    except OSError:
        folder = os.environ.get("TMPDIR", "/tmp")
    where = f"{error.filename!r}" if error.filename else f"the disk of temporary files, {folder!r},"
    return (
        f"{where} has no room left ({error.strerror}): free some there, or put temporary files on"
        " another disk (TMPDIR=FOLDER)"
    )
