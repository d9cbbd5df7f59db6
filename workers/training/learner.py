"""A model called with a batch, and batches where the model is."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from pixellm.losses import LossWeights
from pixellm.model import PixelLM
from pixellm.training import TrainingBatch, training_losses


class Learner(nn.Module):
    """A PixelLM that gives the parts of its loss when it is called with a batch.

    What makes several workers learn together is put around a module, and looks at its calls.
    """

    def __init__(self, model: PixelLM, weights: LossWeights) -> None:
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The weighted parts of the loss, scalars with a graph."""
        losses = training_losses(self.model, batch, self.weights)
        parts = {"ce": losses.ce, "bce": losses.bce, "dice": losses.dice}
        return parts | {"refinement": losses.refinement} if self.weights.refinement else parts


def to_device(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    """The batch with its tensors on a device."""
    if device.type == "cpu":
        return batch

    def there(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    return replace(
        batch,
        pixels=there(batch.pixels),
        ids=there(batch.ids),
        labels=there(batch.labels),
        text_valid=there(batch.text_valid),
        image_of=there(batch.image_of),
        masks=tuple(map(there, batch.masks)),
        ignored=tuple(map(there, batch.ignored)),
    )
