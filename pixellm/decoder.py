"""The light pixel decoder: mask queries and image features -> mask logits, coarse to fine.

Each scale has its own two-way transformer; the coarse mask weights the features of the next scale
(paper, section 3.3). Parameter names are the released ones.

Shapes: N targets, S scales, H language model width, D decoder width, g CLIP grid side.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixellm.config import DecoderSizes
from pixellm.two_way import TwoWayTransformer

MASK_CHANNELS_DIVISOR = 8
"""The upscaled map has D / 8 channels: 32 at the released width of 256."""


class LayerNorm2d(nn.Module):
    """Normalises each pixel over its channels (biased variance)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        centred = x - x.mean(1, keepdim=True)
        scale = (centred.square().mean(1, keepdim=True) + self.eps).rsqrt()
        return self.weight[:, None, None] * (centred * scale) + self.bias[:, None, None]


class FourierPositions(nn.Module):
    """SAM's fixed random Fourier position map."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, height: int, width: int) -> Tensor:
        """The map of a grid: (1, D, height, width)."""
        matrix = self.positional_encoding_gaussian_matrix
        y = (torch.arange(height, device=matrix.device, dtype=matrix.dtype) + 0.5) / height
        x = (torch.arange(width, device=matrix.device, dtype=matrix.dtype) + 0.5) / width
        where = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)
        angle = 2 * math.pi * ((2 * where - 1) @ matrix)  # (height, width, D / 2)
        return torch.cat([angle.sin(), angle.cos()], dim=-1).permute(2, 0, 1)[None]


class HyperMLP(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        sizes = [width, width, width, out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., out)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def neck(hidden: int, width: int) -> nn.Sequential:
    """1x1 and 3x3 convolutions from the projected features to the decoder's width."""
    return nn.Sequential(
        nn.Conv2d(hidden, width, 1, bias=False),
        LayerNorm2d(width),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        LayerNorm2d(width),
    )


def upscaler(width: int, out: int) -> nn.Sequential:
    """Doubles a map's side."""
    return nn.Sequential(nn.ConvTranspose2d(width, out, 2, stride=2), LayerNorm2d(out), nn.GELU())


@dataclass(frozen=True, slots=True)
class ScaleMasks:
    """What one scale of the decoder says."""

    logits: Tensor
    """(N, 1, 2g, 2g) at the first scale, (N, 1, 4g, 4g) at later ones."""
    iou: Tensor
    """(N, 1): the mask's own guess of its IoU. The released model doesn't train it."""


class PixelDecoder(nn.Module):
    """Queries of N targets and the features of their images -> mask logits per scale."""

    def __init__(self, hidden: int, sizes: DecoderSizes) -> None:
        super().__init__()
        width, thin = sizes.width, sizes.width // MASK_CHANNELS_DIVISOR
        self.neck = neck(hidden, width)
        self.position_map = FourierPositions(width)
        self.no_mask_embed = nn.Embedding(1, width)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(sizes.mask_tokens, width)
        self.level_embed = nn.Embedding(sizes.scales, width)
        self.pe1 = FourierPositions(width)
        self.transformer = nn.ModuleList(
            TwoWayTransformer(width, sizes.mlp, sizes.heads) for _ in range(sizes.scales)
        )
        self.upsample_2x = upscaler(width, width)
        self.output_upscaling = upscaler(width, thin)
        self.output_hypernetworks_mlps = nn.ModuleList(
            HyperMLP(width, thin) for _ in range(sizes.mask_tokens)
        )
        self.iou_prediction_head = HyperMLP(width, sizes.mask_tokens)

    def maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Per scale (B, g * g, H) projected features -> (B, D, g, g), or doubled, neck maps.

        Nothing here depends on a target, so it runs once per image.
        """
        planes = [self.neck(_as_planes(feature)) for feature in features]
        return [planes[0], *(self.upsample_2x(plane) for plane in planes[1:])]

    def forward(
        self, maps: Sequence[Tensor], queries: Tensor, image_of: Tensor
    ) -> list[ScaleMasks]:
        """Decodes all targets of a batch of images together.

        Args:
            maps: per scale (B, D, h, w), from `maps`.
            queries: (N, S, D).
            image_of: (N,) long, the image of each target.

        Returns:
            One ScaleMasks per scale, coarse first.
        """
        results: list[ScaleMasks] = []
        for scale, plane in enumerate(maps):
            size, no_mask = (plane.shape[-2], plane.shape[-1]), self.no_mask_embed.weight
            # laid out per image and not per target: pixels first, as everything below reads them
            image = plane.flatten(2).mT.contiguous()  # (B, h * w, D)
            if results:
                weights = 1 + _fit(results[-1].logits, size).sigmoid().flatten(1)[..., None]
                image = torch.addcmul(no_mask, image[image_of], weights)
            else:
                image = (image + no_mask)[image_of]
            results.append(self._decode(scale, image, size, queries[:, scale]))
        return results

    def _decode(
        self, scale: int, image: Tensor, size: tuple[int, int], query: Tensor
    ) -> ScaleMasks:
        """(N, h * w, D) image, (N, D) query -> masks of one scale."""
        learned = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([learned.expand(len(query), -1, -1), query[:, None]], dim=1)
        tokens = tokens + self.level_embed.weight[scale]
        positions = self.position_map if scale == 0 else self.pe1
        where = positions(*size).flatten(2).mT  # (1, h * w, D)
        tokens, image = self.transformer[scale](tokens, image, where)
        fine = self.output_upscaling(image.mT.unflatten(2, size))
        # only mask token 0 is published as the answer: multi-mask output is off
        coefficients = self.output_hypernetworks_mlps[0](tokens[:, 1])  # (N, D / 8)
        logits = torch.einsum("nc,nchw->nhw", coefficients, fine)[:, None]
        return ScaleMasks(logits=logits, iou=self.iou_prediction_head(tokens[:, 0])[:, :1])


def read_sizes(shape: Callable[[str], tuple[int, ...]]) -> DecoderSizes:
    """The sizes of a decoder, from the shapes of its weights by their names in `PixelDecoder`."""
    scales, width = shape("level_embed.weight")
    mask_tokens, _ = shape("mask_tokens.weight")
    mlp, _ = shape("transformer.0.layers.0.mlp.lin1.weight")
    return DecoderSizes(width=width, mlp=mlp, scales=scales, mask_tokens=mask_tokens)


def _as_planes(feature: Tensor) -> Tensor:
    """(B, g * g, H) -> (B, H, g, g)."""
    side = round(feature.shape[1] ** 0.5)
    return feature.transpose(1, 2).reshape(len(feature), feature.shape[2], side, side)


def _fit(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Brings a coarse mask to the map's size; equal sizes (S <= 2) pass through."""
    if tuple(logits.shape[-2:]) == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
