"""Fine-tunes a PixelLM on label tables; the result, model or adapter, is what jobs/label.py takes.

    python jobs/train.py --data gold --output tuned --steps 500
    python jobs/label.py --model tuned/model --input photos --output labels

    python jobs/train.py --data gold --model base --output tuned --result adapter
    python jobs/label.py --model base --adapter tuned/adapter --input photos --output labels

    python jobs/train.py --recipe drawn --output out/drawn    the small model, from nothing

A second start of the same command goes on from the newest state. Exit code 0: the result is there.
1: it broke off; the newest state is kept. 2: a setting is wrong, or there is nothing to learn from.
130: stopped by Ctrl-C.
"""

import sys
from collections.abc import Sequence
from functools import partial

from workers.exit_codes import end, speaker
from workers.storage.uris import shown
from workers.training.settings import TrainSettings

_say = speaker("train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one training; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    interrupted = "stopped; the newest state is kept, the same command goes on from it"
    return end(partial(_work, given), _say, interrupted=interrupted)


def _work(given: Sequence[str]) -> int:
    folder, place = _follow_recipe(given) if _names_recipe(given) else _fine_tune(given)
    print(f"{folder:<11}{shown(place)}")
    return 0


def _fine_tune(given: Sequence[str]) -> tuple[str, str]:
    """Returns which kind of result there is, and where it lies."""
    settings = TrainSettings.from_flags(given, "python jobs/train.py")
    from workers.trainer import run_training

    return settings.plan.result_folder, run_training(settings, _say)


def _names_recipe(given: Sequence[str]) -> bool:
    return any(each.partition("=")[0] == "--recipe" for each in given)


def _follow_recipe(given: Sequence[str]) -> tuple[str, str]:
    """The same from nothing, so with other flags; `--recipe drawn --help` lists them."""
    from workers.drawn.settings import DrawnSettings
    from workers.trainer import run_recipe

    settings = DrawnSettings.from_flags(given, "python jobs/train.py --recipe drawn")
    return "model", run_recipe(settings, _say)


if __name__ == "__main__":
    sys.exit(main())
