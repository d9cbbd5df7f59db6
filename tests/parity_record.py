"""What the parts of a model say while it runs, taken down without touching its code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pixellm.decoder import ScaleMasks
from pixellm.model import PixelLM

PARTS = (
    "vision",
    "language",
    "language.lm_head",
    "codebook.head",
    "codebook",
    "decoder",
    "decoder.neck",
)


class Record:
    """Outputs of the parts, in order of their calls."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Any]] = {part: [] for part in PARTS}

    def all(self, part: str, width: int) -> Tensor:
        """The outputs of a part that gives (rows, ..., width), row after row; maybe none."""
        return torch.cat([torch.empty(0, width), *(o.flatten(0, -2) for o in self.calls[part])])

    def queries(self, scales: int, width: int) -> Tensor:
        """(N, S, D): what the codebook gave to the decoder."""
        return torch.cat([torch.empty(0, scales, width), *self.calls["codebook"]])

    def scales(self) -> list[ScaleMasks]:
        """The decoder's masks of all targets, chunk after chunk; [] when it wasn't called."""
        chunks: list[list[ScaleMasks]] = self.calls["decoder"]
        return [
            ScaleMasks(torch.cat([one.logits for one in level]), torch.cat([i.iou for i in level]))
            for level in zip(*chunks, strict=True)
        ]


@contextmanager
def recording(model: PixelLM) -> Iterator[Record]:
    """Takes down every call of the model's parts inside the block."""
    record = Record()
    handles = [
        model.get_submodule(part).register_forward_hook(
            lambda _module, _inputs, output, part=part: record.calls[part].append(output)
        )
        for part in PARTS
    ]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
