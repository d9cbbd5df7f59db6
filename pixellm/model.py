r"""PixelLM: the boxes of the paper's figure, joined (arXiv 2312.02228, figure 2).

    pixels -> VisionTower -> image_projector -> LanguageModel -> Codebook -> queries
                    \------> mask_projector ---------------------> PixelDecoder -> masks

Shapes: B images, R rows (image, question pairs), L ids of a row, I image tokens, T = L - 1 + I,
H language model width, N targets, S scales, D decoder width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixellm.codebook import Codebook
from pixellm.config import PixelLMConfig
from pixellm.decoder import PixelDecoder
from pixellm.language import LanguageModel
from pixellm.masks import combine_scales
from pixellm.vision import (
    VisionTower,
    nearest_resize,
    projector,
    shrink_for_language,
    valid_pixels,
)


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """What is computed once per image, whatever is asked about it."""

    tokens: Tensor
    """(B, I, H): the image as the language model reads it."""
    token_valid: Tensor
    """(B, I): 0 on tokens that lie in the padding. They keep their positions (Q21)."""
    maps: tuple[Tensor, ...]
    """Per scale (B, D, h, w): the decoder's image maps."""

    def clone(self) -> "EncodedImages":
        """The same in memory of its own."""
        maps = tuple(scale.clone() for scale in self.maps)
        return EncodedImages(self.tokens.clone(), self.token_valid.clone(), maps)


@dataclass(frozen=True, slots=True)
class LowMasks:
    """The masks of N targets before they come into the frames of their images."""

    logits: Tensor
    """(N, mask_side, mask_side): all scales together, over the model's padded square."""
    iou: Tensor
    """(N,): the finest mask's own guess of its IoU. The released model doesn't train it."""

    def __getitem__(self, targets: slice) -> "LowMasks":
        """Those of some targets."""
        return LowMasks(self.logits[targets], self.iou[targets])


class PixelLM(nn.Module):
    """A language model whose answers carry masks."""

    def __init__(self, config: PixelLMConfig) -> None:
        super().__init__()
        self.config = config
        clip, hidden = int(config.clip["hidden_size"]), int(config.llama["hidden_size"])
        self.vision = VisionTower(config)
        self.image_projector = projector(clip, hidden)
        self.mask_projector = projector(clip, hidden)
        self.language = LanguageModel(config)
        self.codebook = Codebook(
            hidden, config.decoder.width, config.scales, config.tokens_per_scale
        )
        self.decoder = PixelDecoder(hidden, config.decoder)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.language.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' precision."""
        return self.language.lm_head.weight.dtype

    def encode_images(self, pixels: Tensor, resized: Sequence[tuple[int, int]]) -> EncodedImages:
        """Runs the vision tower, both projectors and the decoder's neck.

        Args:
            pixels: (B, 3, side, side), normalised and padded.
            resized: (height, width) of each image inside its padding.
        """
        valid = valid_pixels(resized, self.config.image_side, pixels.device)
        features = self.vision(pixels.to(self.dtype), valid)
        small = shrink_for_language(features[0], self.config.llm_grid)
        patches = nearest_resize(valid, self.config.grid)
        return EncodedImages(
            tokens=self.image_projector(small),
            token_valid=nearest_resize(patches, self.config.llm_grid).flatten(1),
            maps=tuple(self.decoder.maps([self.mask_projector(feature) for feature in features])),
        )

    def read(
        self, ids: Tensor, text_valid: Tensor, images: EncodedImages, image_of: Tensor
    ) -> Tensor:
        """Hidden states of whole conversations, teacher-forced.

        Args:
            ids: (R, L) with one IMAGE_TOKEN_INDEX a row, at the same place in all rows.
            text_valid: (R, L), 0 on padding.
            images: the images of the rows.
            image_of: (R,) long, the image of each row.

        Returns:
            (R, T, H).
        """
        embeds = self.language.splice(ids, images.tokens[image_of])
        keys = self.key_mask(ids, text_valid, images.token_valid[image_of])
        return self.language(embeds, keys)

    def key_mask(self, ids: Tensor, text_valid: Tensor, token_valid: Tensor) -> Tensor:
        """(R, T) keys that may be attended to: words of the text, image tokens off the padding."""
        return spread(text_valid, ids, self.config.image_tokens, token_valid)

    def decode(self, maps: Sequence[Tensor], queries: Tensor, image_of: Tensor) -> LowMasks:
        """A mask of each query, all scales together.

        Args:
            maps: of some images, `EncodedImages.maps`.
            queries: (N, S, D).
            image_of: (N,), the image of each.
        """
        scales = self.decoder(maps, queries, image_of)
        logits = combine_scales([scale.logits for scale in scales], self.config.mask_side)
        return LowMasks(logits, scales[-1].iou[:, 0])


def spread(values: Tensor, ids: Tensor, image_tokens: int, image_values: Tensor | int) -> Tensor:
    """Lays per-id values (R, L) out over the sequence with its image (R, T).

    Args:
        values: (R, L).
        ids: (R, L) with one IMAGE_TOKEN_INDEX a row.
        image_tokens: I.
        image_values: (R, I), or one value for all image positions.
    """
    rows = []
    at_each = (ids < 0).int().argmax(1).tolist()
    for index, (row, at) in enumerate(zip(values, at_each, strict=True)):
        if isinstance(image_values, Tensor):
            middle = image_values[index].to(row)
        else:
            middle = row.new_full((image_tokens,), image_values)
        rows.append(torch.cat([row[:at], middle, row[at + 1 :]]))
    return torch.stack(rows)
