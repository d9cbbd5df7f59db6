"""Sizes of models that are counted and never filled: PixelLM-7B and SAM."""

from transformers import SamConfig

from pixellm.config import DecoderSizes, PixelLMConfig


def released_config() -> PixelLMConfig:
    """The sizes of PixelLM-7B: LLaMA 7B, CLIP ViT-L/14 at 448 pixels."""
    return PixelLMConfig(
        llama={
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "vocab_size": 32_000 + 6 + 2,  # six of the codebook, two around the image
        },
        clip={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
        },
        image_side=448,
        decoder=DecoderSizes(width=256, mlp=2048, scales=2),
        tokens_per_scale=3,
        feature_layers=(-2, -11),
    )


def sam_config() -> SamConfig:
    """SAM ViT-H."""
    vision = {
        "hidden_size": 1280,
        "mlp_dim": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
        "image_size": 1024,
        "patch_size": 16,
    }
    return SamConfig(vision_config=vision)


def small_sam_config() -> SamConfig:
    """A SAM that is counted at once, for trying things out."""
    vision = {
        "hidden_size": 64,
        "mlp_dim": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "global_attn_indexes": [1],
        "image_size": 128,
        "patch_size": 16,
    }
    return SamConfig(vision_config=vision)
