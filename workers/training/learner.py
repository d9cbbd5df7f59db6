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
        bce = losses.bce if any(map(len, batch.masks)) else losses.bce + self._nothing()
        parts = {"ce": losses.ce, "bce": bce, "dice": losses.dice}
        return parts | {"refinement": losses.refinement} if self.weights.refinement else parts

    def _nothing(self) -> Tensor:
        """0, made of the weights that a batch without masks leaves out.

        Workers that learn together wait for the gradients of all of their weights, and one of them
        may have such a batch when the others have none.
        """
        model = self.model
        idle = (model.mask_projector, model.codebook, model.decoder)
        learned = [w for part in idle for w in part.parameters() if w.requires_grad]
        return sum((0 * weight.sum() for weight in learned), torch.zeros(()))


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
