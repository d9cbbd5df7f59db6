"""Scores one label table against another, the gold one, and says whether it is good enough.

    python jobs/evaluate.py --labels labels --gold gold --output scores.json --min giou=0.5
    python jobs/evaluate.py --labels labels --gold gold --calibrate calibration.json

Exit code 0: scored, and all that --min asks for is reached. 1: could not be scored, with the
reason. 2: a bad setting. 3: something is below its --min. 130: stopped by Ctrl-C.
"""

import sys
from collections.abc import Sequence
from functools import partial

from workers.exit_codes import MISSED, end, speaker
from workers.scoring.settings import EvaluateSettings
from workers.storage.stores import open_store
from workers.storage.uris import shown

_say = speaker("evaluate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one evaluation; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return end(partial(_work, given), _say)


def _work(given: Sequence[str]) -> int:
    settings = EvaluateSettings.from_flags(given, "python jobs/evaluate.py")
    # Only once the flags are known to be right: torch and pycocotools take seconds to import.
    from workers.evaluating import evaluate
    from workers.scoring.fitting import fit_calibration
    from workers.scoring.report import write_json, write_markdown

    found, facts = evaluate(settings, _say)
    page = write_markdown(found, facts)
    print(page, end="")
    if settings.output:
        _put(settings.output, write_json(found, facts))
        _put(f"{settings.output.removesuffix('.json')}.md", page.encode())
    if settings.calibrate:
        notes = {"gold": facts.gold, "labels": facts.labels}
        curve = fit_calibration(found.raw, settings.calibrate_of, notes)
        _put(settings.calibrate, curve.to_json())
        if len(set(found.raw.hits.tolist())) == 1:
            what = "each" if found.raw.hits.all() else "none"
            share = f"{what} of the predictions found a target"
            _say(f"{share}: this calibration gives every target the same score")
    for sentence in facts.missed:
        _say(sentence)
    return MISSED if facts.missed else 0


def _put(uri: str, data: bytes) -> None:
    open_store(uri).put(uri, data)
    _say(f"wrote {shown(uri)}")


if __name__ == "__main__":
    sys.exit(main())
