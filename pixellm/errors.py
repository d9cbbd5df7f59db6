"""What can go wrong in the model library.

PixelLMError
├── ConfigError        a config file lacks a value, values contradict each other, or one can't be
├── CheckpointError    a weight is missing, unexpected or wrongly shaped; a file can't be read
├── ImageError         an image can't be given to the model
├── InstructionError   a text can't be asked
├── TrainingDiverged   a loss is no number any more, or far from those before
└── Unanswerable       a question has no answer: too large for memory, or no numbers come out

None of them is worth a second try with the same input. `workers.errors` continues this tree.
"""


class PixelLMError(Exception):
    """Everything that this project raises on purpose.

    Example:
        try:
            checkpoint = load_checkpoint("weights/")
        except PixelLMError as error:
            print(error)  # names the thing, quotes the value, says the way out
    """


class ConfigError(PixelLMError):
    """A value lacks in a configuration file, contradicts another one, or can't be."""


class CheckpointError(PixelLMError):
    """A weight is missing, unexpected or wrongly shaped, or a weight file can't be read."""


class ImageError(PixelLMError):
    """An image can't be given to the model."""


class InstructionError(PixelLMError):
    """A text can't be asked."""


class TrainingDiverged(PixelLMError):  # noqa: N818 - says what happened
    """A loss is no number any more, or far from those before.

    Attributes:
        batch: the first batch of the step that it came of, from 0; None where all losses are as
            usual and only the gradient isn't, or where it was another worker's.
    """

    def __init__(self, message: str, *, batch: int | None = None) -> None:
        super().__init__(message)
        self.batch = batch


class Unanswerable(PixelLMError):  # noqa: N818 - says what happened
    """A question has no answer: it doesn't fit into memory alone, or no numbers come out."""
