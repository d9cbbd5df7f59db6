"""The sizes of one PixelLM, read from its folder.

`config.json` is read as plain JSON: its `model_type` "llava" is also the name of an unrelated
architecture in transformers, so AutoConfig would build the wrong thing. What the official files
leave out (scales, tokens per scale, decoder widths) is read from the tokenizer and the weights by
`pixellm.checkpoints`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import NoneType
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig

from pixellm.config_values import MOST_WHOLE, check_kinds, check_values, read_whole, wrong_value
from pixellm.errors import ConfigError

OFFICIAL_LLM_GRID = 16
"""Image tokens per side that the language model sees; a constant of the official code."""
OFFICIAL_MASK_SIDE = 128
"""Side on which the scales are averaged; a constant of the official code."""
OFFICIAL_FIRST_FEATURE = -2
"""CLIP hidden state of the first scale, where config.json does not say it."""
OFFICIAL_SECOND_FEATURE = -11
"""CLIP hidden state of the second scale; a constant of the official code."""
FEATURE_STEP = 9
"""Distance between the official feature layers (-2, -11), continued for a third scale and on."""
CONFIG = "config.json"
REFERENCE_SIDE = "ref_image_size"
"""The image side in config.json of a reference fixture."""
LLAMA_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "vocab_size",
)
LLAMA_NUMBERS = ("rms_norm_eps", "initializer_range", "rope_theta")
LLAMA_KINDS = {
    "hidden_act": (str,),
    "bos_token_id": (int,),
    "eos_token_id": (int, list),
    "pad_token_id": (int,),
    "system_text": (str, NoneType),
}
LLAMA_KEYS = (
    *LLAMA_SIZES,
    *LLAMA_NUMBERS,
    "hidden_act",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
CLIP_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
)
CLIP_NUMBERS = ("layer_norm_eps",)


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """Sizes of the pixel decoder (paper, section 3.3)."""

    width: int
    """Channels of tokens and image maps; 256 in the release."""
    mlp: int
    """Hidden width of the two-way blocks' MLP; 2048 in the release."""
    scales: int
    """Image feature scales S; one mask decoder pass each."""
    heads: int = 8
    """Attention heads; a constant of SAM's decoder."""
    mask_tokens: int = 4
    """Mask tokens per pass. Only the first one's mask is used."""


@dataclass(frozen=True, slots=True)
class PixelLMConfig:
    """Everything that fixes the shapes of a PixelLM."""

    llama: Mapping[str, Any]
    """Arguments of transformers' LlamaConfig."""
    clip: Mapping[str, Any]
    """Arguments of transformers' CLIPVisionConfig, at the size on which CLIP was trained."""
    image_side: int
    """Pixels per side of the model's input; 448 in the release."""
    decoder: DecoderSizes
    tokens_per_scale: int
    """K: segmentation tokens that are fused into one query of one scale."""
    feature_layers: tuple[int, ...]
    """CLIP hidden states of the scales, as negative indices; (-2, -11) in the release."""
    llm_grid: int = OFFICIAL_LLM_GRID
    mask_side: int = OFFICIAL_MASK_SIDE
    system_text: str | None = None
    """Text before "USER:"; None means the official one."""
    official: Mapping[str, Any] = field(default_factory=dict)
    """config.json as it was read, so that saving keeps what this code doesn't use."""

    def __post_init__(self) -> None:
        """Refuses sizes that can't work together."""
        if self.image_side % self.patch:
            raise ConfigError(
                f"the image side {self.image_side} isn't a multiple of the patch size "
                f"{self.patch}: check resize_vision_tower_size in config.json"
            )
        if len(self.feature_layers) != self.scales:
            raise ConfigError(
                f"{self.scales} scales need as many feature layers, got {self.feature_layers!r}: "
                "set mask_feature_layers in config.json"
            )
        depth = int(self.clip["num_hidden_layers"])
        for layer in self.feature_layers:
            if not -depth - 1 <= layer <= -1:
                raise ConfigError(
                    f"the feature layer {layer} lies outside a CLIP tower of {depth} layers: "
                    "set mask_feature_layers in config.json"
                )
        if self.decoder.width % (2 * self.decoder.heads):
            raise ConfigError(
                f"the decoder width {self.decoder.width} isn't a multiple of "
                f"{2 * self.decoder.heads} (two times its attention heads)"
            )

    @property
    def scales(self) -> int:
        """S: image feature scales."""
        return self.decoder.scales

    @property
    def group_size(self) -> int:
        """S * K: segmentation tokens of one target."""
        return self.scales * self.tokens_per_scale

    @property
    def patch(self) -> int:
        """Pixels per side of a CLIP patch."""
        return int(self.clip["patch_size"])

    @property
    def grid(self) -> int:
        """CLIP patches per side."""
        return self.image_side // self.patch

    @property
    def image_tokens(self) -> int:
        """Positions that the image takes in the language model's sequence."""
        return self.llm_grid**2

    def llama_config(self) -> LlamaConfig:
        """The language model's transformers configuration."""
        keys = {**self.llama, "attn_implementation": "sdpa", "use_cache": True}
        return LlamaConfig(**keys)

    def clip_config(self) -> CLIPVisionConfig:
        """The vision tower's transformers configuration: this image side, the layers needed."""
        depth = int(self.clip["num_hidden_layers"]) + 1 + max(self.feature_layers)
        sizes = {
            **self.clip,
            "image_size": self.image_side,
            "num_hidden_layers": depth,
            "attn_implementation": "sdpa",
        }
        return CLIPVisionConfig(**sizes)

    def to_json(self) -> str:
        """config.json of our own folder form: the official keys, and ours for what they lack."""
        keys = {
            **self.official,
            **self.llama,
            "model_type": "llava",
            "architectures": ["PixelLMForCausalLM"],
            "mm_hidden_size": self.clip["hidden_size"],
            "mm_vision_select_layer": self.feature_layers[0],
            "resize_vision_tower_size": self.image_side,
            "image_feature_scale_num": self.scales,
            "out_dim": self.decoder.width,
            "use_cache": False,
            "seg_token_num": self.tokens_per_scale,
            "mask_feature_layers": list(self.feature_layers),
            "llm_grid": self.llm_grid,
            "mask_side": self.mask_side,
            "decoder": asdict(self.decoder),
            "vision_config": dict(self.clip),
        }
        keys.pop(REFERENCE_SIDE, None)  # resize_vision_tower_size says it
        if self.system_text is not None:
            keys["system_text"] = self.system_text
        return json.dumps(keys, indent=2, sort_keys=True) + "\n"


def default_feature_layers(first: int, scales: int) -> tuple[int, ...]:
    """The official layers for S <= 2, continued downwards at the same distance beyond."""
    later = (OFFICIAL_SECOND_FEATURE - FEATURE_STEP * n for n in range(scales - 1))
    return (first, *later)


def config_from_json(
    keys: Mapping[str, Any],
    clip: Mapping[str, Any],
    decoder: DecoderSizes,
    tokens_per_scale: int,
) -> PixelLMConfig:
    """Joins config.json, CLIP's config.json and the sizes that were read from the weights."""
    llama = {key: keys[key] for key in LLAMA_KEYS if keys.get(key) is not None}
    for needed in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if needed not in llama:
            raise ConfigError(f"config.json lacks {needed!r}: is it a LLaMA-based PixelLM?")
    if keys.get("rope_scaling"):
        raise ConfigError(f"rope_scaling {keys['rope_scaling']!r} in config.json isn't supported")
    check_values(llama, LLAMA_SIZES, LLAMA_NUMBERS, CONFIG)
    check_kinds({**llama, "system_text": keys.get("system_text")}, LLAMA_KINDS, CONFIG)
    sides = {"llm_grid": OFFICIAL_LLM_GRID, "mask_side": OFFICIAL_MASK_SIDE, **keys}
    return PixelLMConfig(
        llama=llama,
        clip=clip,
        image_side=_image_side(keys, clip),
        decoder=decoder,
        tokens_per_scale=tokens_per_scale,
        feature_layers=_feature_layers(keys, decoder.scales),
        llm_grid=read_whole(sides, "llm_grid", CONFIG),
        mask_side=read_whole(sides, "mask_side", CONFIG),
        system_text=keys.get("system_text"),
        official=dict(keys),
    )


def _image_side(keys: Mapping[str, Any], clip: Mapping[str, Any]) -> int:
    # the official code writes 448, whatever was asked for (Q8): a reference fixture says the truth
    for key in (REFERENCE_SIDE, "resize_vision_tower_size"):
        if keys.get(key):
            return read_whole(keys, key, CONFIG)
    return int(clip["image_size"])


def _feature_layers(keys: Mapping[str, Any], scales: int) -> tuple[int, ...]:
    named = {"mm_vision_select_layer": OFFICIAL_FIRST_FEATURE, **keys}
    first = read_whole(named, "mm_vision_select_layer", CONFIG, -MOST_WHOLE)
    layers = keys.get("mask_feature_layers")
    if layers is None:
        return default_feature_layers(first, scales)
    if not isinstance(layers, list) or any(type(layer) is not int for layer in layers):
        raise wrong_value("mask_feature_layers", layers, CONFIG, "a list of whole numbers")
    return tuple(layers)


def clip_from_json(keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    """CLIP's sizes from its own config.json (a whole CLIPConfig or a CLIPVisionConfig)."""
    vision = keys.get("vision_config", keys) if isinstance(keys, Mapping) else keys
    missing = [key for key in CLIP_SIZES if not isinstance(vision, Mapping) or key not in vision]
    if missing:
        raise ConfigError(f"{where} lacks {missing[0]!r}: is it the config of a CLIP vision model?")
    check_values(vision, CLIP_SIZES, CLIP_NUMBERS, where)
    check_kinds(vision, {"hidden_act": (str,)}, where)
    return {key: vision[key] for key in (*CLIP_SIZES, "hidden_act", *CLIP_NUMBERS) if key in vision}
