"""Repeats the paper's ablations on drawn scenes, and prints the table.

    python jobs/ablate.py --output out/ablation

Exit code 0: the table is written. 1: it broke off; what was learned is kept. 2: a setting is wrong.
130: stopped by Ctrl-C.
"""

import sys
from collections.abc import Sequence

from pixellm.errors import PixelLMError
from workers.drawn.study_settings import AblateSettings
from workers.errors import SettingsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one study; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        print(_work(AblateSettings.from_flags(given, "python jobs/ablate.py")), end="")
    except PixelLMError as error:
        for line in f"{error}".splitlines():
            _say(line)
        return 2 if isinstance(error, SettingsError) else 1
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from the newest state")
        return 130
    return 0


def _work(settings: AblateSettings) -> str:
    import torch

    from workers.drawn.study import Study
    from workers.storage.stores import Anywhere

    torch.set_num_threads(settings.threads)
    return Study(settings.plan, settings.cache.expanduser(), Anywhere(), _say).run()


def _say(text: str) -> None:
    print(f"ablate: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
