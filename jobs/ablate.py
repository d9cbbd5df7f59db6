"""Repeats the paper's ablations on drawn scenes, and prints the table.

    python jobs/ablate.py --output out/ablation

Exit code 0: the table is written. 1: it broke off; what was learned is kept. 2: a setting is wrong.
130: stopped by Ctrl-C.
"""

import sys
from collections.abc import Sequence
from functools import partial

import torch

from workers.drawn.study import Study
from workers.drawn.study_settings import AblateSettings
from workers.exit_codes import end, speaker
from workers.storage.stores import Anywhere

_say = speaker("ablate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one study; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    interrupted = "stopped; the same command goes on from the newest state"
    return end(partial(_work, given), _say, interrupted=interrupted)


def _work(given: Sequence[str]) -> int:
    settings = AblateSettings.from_flags(given, "python jobs/ablate.py")
    torch.set_num_threads(settings.threads)
    print(Study(settings.plan, settings.cache.expanduser(), Anywhere(), _say).run(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
