"""The two-way transformer of SAM: tokens read the image map and the map reads the tokens.

Written from Segment Anything (arXiv 2304.02643), section A; parameter names are the released ones.

Shapes: N rows, t tokens, p pixels of the map, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention that may work at a smaller inner width.

    Where few tokens meet many pixels, what a pixel would be projected to is never made: the
    projection goes into the tokens' side of the product, as (q (W x)) = ((q W) x). With 6 tokens, 8
    heads and the released width that is a bit more than a third of the arithmetic, and no large
    tensor is split into heads.
    """

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def _split(self, x: Tensor) -> Tensor:
        """(N, t, inner) -> (N, heads, t, inner / heads)."""
        width = x.shape[-1] // self.heads
        return x.reshape(*x.shape[:-1], self.heads, width).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N, t, D), (N, t, D), (N, t, D) -> (N, t, D)."""
        heads = F.scaled_dot_product_attention(
            self._split(self.q_proj(q)), self._split(self.k_proj(k)), self._split(self.v_proj(v))
        )
        return self.out_proj(heads.transpose(1, 2).flatten(2))

    def read_pixels(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Few tokens read many pixels: (N, t, D), (N, p, D), (N, p, D) -> (N, t, D)."""
        q = self._scaled(self.q_proj(tokens))  # (N, h, t, d)
        scores = torch.baddbmm(
            self._per_head(q, self.k_proj.bias),  # (N, h * t, 1)
            self._through(q, self.k_proj.weight),  # (N, h * t, D)
            keys.transpose(1, 2),
        )
        seen = scores.softmax(-1) @ values  # (N, h * t, D)
        seen = seen.unflatten(1, (self.heads, -1)) @ self._split_rows(self.v_proj.weight).mT
        return self.out_proj(seen.transpose(1, 2).flatten(2) + self.v_proj.bias)

    def read_tokens(self, pixels: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Many pixels read few tokens: (N, p, D), (N, t, D), (N, t, D) -> (N, p, D)."""
        k, v = self._scaled(self.k_proj(keys)), self._split(self.v_proj(values))
        scores = torch.baddbmm(
            self._per_head(k, self.q_proj.bias),
            self._through(k, self.q_proj.weight),
            pixels.transpose(1, 2),
        )  # (N, h * t, p)
        weights = scores.unflatten(1, (self.heads, -1)).softmax(2).flatten(1, 2)
        said = v @ self.out_proj.weight.T.unflatten(0, (self.heads, -1))  # (N, h, t, D)
        # the weights of each head are 1 together: a share of the bias for each makes it whole
        return weights.mT @ (said + self.out_proj.bias / self.heads).flatten(1, 2)

    def _scaled(self, x: Tensor) -> Tensor:
        split = self._split(x)
        return split * split.shape[-1] ** -0.5

    def _split_rows(self, weight: Tensor) -> Tensor:
        """(inner, D) -> (heads, inner / heads, D)."""
        return weight.unflatten(0, (self.heads, -1))

    def _through(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, h, t, d) -> (N, h * t, D): what its product with a projection is a product with."""
        return (x @ self._split_rows(weight)).flatten(1, 2)

    def _per_head(self, x: Tensor, bias: Tensor) -> Tensor:
        """(N, h, t, d) -> (N, h * t, 1): its product with a projection's bias."""
        return (x @ bias.view(self.heads, -1, 1)).flatten(1, 2)


class MLP(nn.Module):
    """The blocks' two-layer perceptron with ReLU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayBlock(nn.Module):
    """Self-attention of tokens, tokens -> image, MLP, image -> tokens."""

    def __init__(self, width: int, hidden: int, heads: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(width, width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, width // 2, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, width // 2, heads)

    def forward(
        self, tokens: Tensor, image: Tensor, start: Tensor, where: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One block.

        Args:
            tokens: (N, t, D).
            image: (N, p, D).
            start: (N, t, D), the tokens before the first block; they serve as token positions.
            where: (1, p, D), the map's positions.

        Returns:
            New tokens (N, t, D) and image (N, p, D).
        """
        if self.first:  # no residual, no positions
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            query = tokens + start
            tokens = tokens + self.self_attn(query, query, tokens)
        tokens = self.norm1(tokens)
        keys = image + where
        tokens = self.norm2(
            tokens + self.cross_attn_token_to_image.read_pixels(tokens + start, keys, image)
        )
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(
            image + self.cross_attn_image_to_token.read_tokens(keys, tokens + start, tokens)
        )
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two blocks and a last look of the tokens at the image."""

    def __init__(self, width: int, hidden: int, heads: int, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(width, hidden, heads, first=index == 0) for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(width, width // 2, heads)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, start: Tensor, image: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """(N, t, D) tokens, (N, p, D) image, (1, p, D) positions -> new tokens and image."""
        tokens = start
        for layer in self.layers:
            tokens, image = layer(tokens, image, start, where)
        seen = self.final_attn_token_to_image.read_pixels(tokens + start, image + where, image)
        return self.norm_final_attn(tokens + seen), image
