"""Curves for TensorBoard, if they are wanted: what `workers.training.metrics` keeps, as scalars."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pixellm.loop import StepReport
from workers.errors import SettingsError
from workers.training.evaluation import Evaluation

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Board:
    """Writes TensorBoard's event files.

    Args:
        folder: on this machine; it is made.

    Raises:
        SettingsError: the package `tensorboard` is not installed, or the folder can't be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401 - seconds, and only where it is wanted

            folder.mkdir(parents=True, exist_ok=True)
        except ImportError as error:
            raise SettingsError(
                "--tensorboard needs the package tensorboard, which is not installed here:"
                " pip install tensorboard (the extra `tensorboard` of this project), or leave the"
                f" flag out; OUTPUT/metrics has the same numbers ({error})"
            ) from error
        except OSError as error:
            raise SettingsError(f"--tensorboard {str(folder)!r} can't be made: {error}") from error
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def note_step(self, report: StepReport, measured: Mapping[str, float | None]) -> None:
        """Adds a step."""
        scalars = {f"loss/{name}": value for name, value in report.losses.items()}
        scalars |= {"loss/total": report.total, "rate": report.rate, "gradient": report.gradient}
        known = {name: value for name, value in measured.items() if value is not None}
        self._add(report.step, scalars | known)

    def note_scores(self, seen: Evaluation) -> None:
        """Adds an evaluation."""
        self._add(seen.step, {f"validation/{name}": each for name, each in seen.scores.items()})

    def flush(self) -> None:
        """Everything is in the files from now on."""
        if self._writer is not None:
            self._writer.flush()

    def _add(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # what was written of this step and later ones came of a run that was killed
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
