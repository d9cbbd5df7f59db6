"""Which weights of a PixelLM learn (paper, section 4.1): a choice, and nothing that carries it out.

    LoRA     low-rank steps beside some linear layers of the language model
    light    embeddings, output layer, projectors, codebook and pixel decoder, learned whole
    neck     the decoder's neck and its no-mask embedding, which the release left at their random
             start; they learn only when asked to
    full     everything

`pixellm.tuning` carries it out, and needs PEFT for that; a command's `--help` doesn't.
"""

from dataclasses import dataclass
from typing import Literal

Linear = Literal["q", "k", "v", "o", "gate", "up", "down"]
"""Linear layers of each layer of the language model: four of its attention, three of its MLP."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What learns. The defaults are the paper's."""

    rank: int = 8
    """of LoRA; 0: the language model learns nothing by it"""
    alpha: int = 16
    """LoRA's steps are multiplied by alpha / rank"""
    dropout: float = 0.05
    """of what LoRA reads"""
    targets: tuple[Linear, ...] = ("q", "v")
    """the layers that LoRA's steps stand beside"""
    light: bool = True
    neck: bool = False
    full: bool = False
    """then there is no LoRA"""

    @property
    def pattern(self) -> str:
        """What PEFT adapts in a PixelLM, as a full-match pattern.

        Plain names such as "q_proj" would also match the vision tower and the pixel decoder, which
        the paper doesn't adapt.
        """
        names = "|".join(self.targets)
        return rf"language\.model\.layers\.\d+\.(self_attn|mlp)\.({names})_proj"
