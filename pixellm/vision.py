"""The vision tower: CLIP, read at several depths, and the two projectors behind it.

Shapes: B images, P patches per side, C CLIP width, H language model width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel

from pixellm.config import PixelLMConfig
from pixellm.language import bias_of


def resize_position_table(table: Tensor, side: int) -> Tensor:
    """Fits CLIP's position table to another grid, as the published weights expect it (Q1).

    The official code takes the *last* row for the class token's, though CLIP keeps it in the first
    one. All rows but the last are so read as the square grid, shifted by one, and the last patch's
    row is put behind the resized grid.

    Args:
        table: (n * n + 1, C), the first row is the class token's.
        side: patches per side wanted.

    Returns:
        (side * side + 1, C).
    """
    old = round((table.shape[0] - 1) ** 0.5)
    grid = table[:-1].T.reshape(1, -1, old, old)
    resized = F.interpolate(grid.float(), size=(side, side), mode="bilinear", align_corners=False)
    rows = resized.to(table.dtype).flatten(2)[0].T  # (side * side, C)
    return torch.cat([rows, table[-1:]])


def valid_pixels(
    resized: Sequence[tuple[int, int]], side: int, device: torch.device | None = None
) -> Tensor:
    """(B, side, side) float: 1 where the image is, 0 where it is padding on the right and below."""
    mask = torch.zeros(len(resized), side, side, device=device)
    for row, (height, width) in zip(mask, resized, strict=True):
        row[:height, :width] = 1
    return mask


def nearest_resize(mask: Tensor, side: int) -> Tensor:
    """(B, h, w) -> (B, side, side): cell (i, j) takes the value at its top-left corner."""
    return F.interpolate(mask[:, None], size=(side, side), mode="nearest")[:, 0]


def projector(width: int, out: int) -> nn.Sequential:
    """The two-layer MLP from CLIP's width to the language model's (spec: 2H hidden, exact GELU)."""
    return nn.Sequential(nn.Linear(width, 2 * out), nn.GELU(), nn.Linear(2 * out, out))


class VisionTower(nn.Module):
    """CLIP's vision transformer, giving the hidden states of the scales.

    Padded patches are never attended to, in any layer. Layers above the highest feature are
    neither kept nor computed.
    """

    def __init__(self, config: PixelLMConfig) -> None:
        super().__init__()
        self.grid = config.grid
        depth = int(config.clip["num_hidden_layers"])
        self.entries = tuple(depth + 1 + layer for layer in config.feature_layers)
        self.clip = CLIPVisionModel(config.clip_config())
        # PixelLM reads nothing behind it
        self.clip.post_layernorm = nn.Identity()  # type: ignore[assignment]

    def key_mask(self, valid: Tensor) -> Tensor:
        """(B, side, side) valid pixels -> (B, 1 + P * P) valid keys; the class token is valid."""
        patches = nearest_resize(valid, self.grid).flatten(1)
        return F.pad(patches, (1, 0), value=1.0)

    def forward(self, pixels: Tensor, valid: Tensor) -> list[Tensor]:
        """Features of the scales.

        Args:
            pixels: (B, 3, side, side), normalised and padded.
            valid: (B, side, side), 1 on the image and 0 on the padding.

        Returns:
            For each scale (B, P * P, C): a CLIP hidden state without the class token.
        """
        hidden = self.clip.pre_layrnorm(self.clip.embeddings(pixels))
        bias = bias_of(self.key_mask(valid), hidden.dtype)
        bias = bias[:, None, None].expand(-1, 1, hidden.shape[1], -1)  # (B, 1, 1 + P*P, 1 + P*P)
        states = [hidden]  # as Hugging Face counts: entry 0 is the input of the first layer
        for layer in self.clip.encoder.layers:
            states.append(layer(states[-1], bias))
        return [states[entry][:, 1:] for entry in self.entries]


def shrink_for_language(feature: Tensor, grid: int) -> Tensor:
    """(B, P * P, C) -> (B, grid * grid, C), bilinear in fp32 (spec, section 3)."""
    batch, patches, width = feature.shape
    side = round(patches**0.5)
    planes = feature.transpose(1, 2).reshape(batch, width, side, side).float()
    small = F.interpolate(planes, size=(grid, grid), mode="bilinear", align_corners=False)
    return small.to(feature.dtype).flatten(2).transpose(1, 2)
