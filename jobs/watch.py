"""Labels what is dropped under a prefix, by itself, with the settings of jobs/label.py.

    python jobs/watch.py --input s3://bucket/in --output s3://bucket/labels --instruction "the mugs"
    python jobs/watch.py --once --config jobs/standing/nightly.yaml

Runs until it is asked to end (SIGTERM, Ctrl-C), or until --deadline or --max-gpu-hours; with --once
until all that is there is labelled. Any number of watchers may share a prefix.
Exit code 0: it ended as it should. 1: something could not be labelled, or the store is away. 2: a
setting is wrong. 130: Ctrl-C. 143: asked to end by SIGTERM, and not through some seconds after
--grace-seconds, for the store hangs, say. What was committed is always kept.
"""

import sys
from collections.abc import Sequence
from functools import partial

from workers.exit_codes import KEPT, end
from workers.progress import Progress
from workers.storage.uris import shown
from workers.watching.settings import WatchSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Watches; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    progress = Progress(name="watch")
    work = partial(_work, given, progress)
    return end(work, progress.say, progress.complain, interrupted=KEPT)


def _work(given: Sequence[str], progress: Progress) -> int:
    settings = WatchSettings.from_everywhere(given, "python jobs/watch.py")
    if settings.log_format == "json":
        progress.speak_json()
    # Only once the flags are known to be right: torch takes seconds to import.
    progress.say(f"watching {shown(settings.input)}")
    from workers.engines import check_model
    from workers.hardware import settle_hardware
    from workers.model_files import identify_model
    from workers.stopping import ended_by_sigterm
    from workers.storage.stores import Anywhere
    from workers.watching.event_queue import EventQueue
    from workers.watching.watcher import Watcher

    settings = settle_hardware(settings)
    check_model(settings)
    identify_model(settings)  # what is wrong with the model is not the fault of a drop
    stop = settings.make_stop()
    queue = EventQueue(settings.queue_url) if settings.queue_url else None
    watcher = Watcher(Anywhere(), settings, progress, stop, queue)
    with ended_by_sigterm(stop):
        watcher.watch()
    return 1 if settings.once and watcher.unfinished and not stop.reason else 0


if __name__ == "__main__":
    sys.exit(main())
