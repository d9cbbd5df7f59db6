"""A PixelLM of any size with random weights, made right where it will run.

Nothing is made on the CPU first, and no value is drawn twice: 7B weights in bf16 take 13 GB of the
device and seconds.
"""

import torch

from pixellm.checkpoints import Checkpoint, empty_model
from pixellm.config import PixelLMConfig
from pixellm.model import PixelLM
from pixellm.tokenizer import Tokenizer
from tests.benchmarks.inputs import SEED

STANDARD_DEVIATIONS = {
    "language.model.embed_tokens.weight": 1.0,
    "vision.clip.embeddings.position_embedding.weight": 0.02,
    "decoder.position_map.positional_encoding_gaussian_matrix": 1.0,
    "decoder.pe1.positional_encoding_gaussian_matrix": 1.0,
}
"""Of what no product is made with; other weights keep what goes through them at its size."""


def random_checkpoint(
    config: PixelLMConfig, tokenizer: Tokenizer, *, dtype: torch.dtype, device: torch.device
) -> Checkpoint:
    """A model in eval mode that has learned nothing; the same weights each time on a device.

    Args:
        config: sizes.
        tokenizer: its ids must lie below the vocabulary of `config`.
        dtype: precision of the weights.
        device: where they are made.
    """
    assert tokenizer.vocab_size <= int(config.llama["vocab_size"]), "ids that have no embedding"
    model = empty_model(config, dtype=dtype, device=device).requires_grad_(False)
    fill_randomly(model, SEED)
    return Checkpoint(model.eval(), tokenizer, "")


@torch.no_grad()
def fill_randomly(model: PixelLM, seed: int) -> None:
    """Gives every weight that a checkpoint would hold its value, in place."""
    generator = torch.Generator(model.device).manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            tensor.zero_()
        elif tensor.dim() == 1 and not name.endswith("class_embedding"):
            tensor.fill_(1)  # of a norm
        else:
            size = tensor[0].numel() if tensor.dim() > 1 else tensor.numel()
            deviation = STANDARD_DEVIATIONS.get(name, size**-0.5)
            tensor.normal_(std=deviation, generator=generator)


def language_bytes(model: PixelLM) -> int:
    """Weights that a step of the language model reads, whatever it is about.

    Of the embeddings only a few lines are read: they don't count.
    """
    language = model.language
    inner = (*language.model.layers.parameters(), *language.model.norm.parameters())
    return sum(weight.nbytes for weight in (*inner, *language.lm_head.parameters()))
