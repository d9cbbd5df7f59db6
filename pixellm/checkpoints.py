"""Model folders: reading and writing the weights of a PixelLM, under their official names.

A folder holds config.json, *.safetensors (one file, or shards with an index), tokenizer.model and
the tokenizer's JSON files. The official form keeps CLIP in a folder of its own; our form holds it
in the same files, under the names of the official training checkpoint.

Only safetensors are read here. Pickled weights go through `python -m pixellm.convert` first.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from pixellm.config import PixelLMConfig, clip_from_json, config_from_json
from pixellm.config_values import read_json
from pixellm.decoder import read_sizes
from pixellm.digests import folder_sha256
from pixellm.errors import CheckpointError, ConfigError
from pixellm.model import PixelLM
from pixellm.tokenizer import Tokenizer
from pixellm.vision import resize_position_table
from pixellm.weights import WeightFiles, WeightSource, save_weights

NAMES = (
    ("language.model.", "model."),
    ("language.lm_head.", "lm_head."),
    ("vision.clip.", "model.vision_tower.vision_tower.vision_model."),
    ("image_projector.", "model.mm_projector."),
    ("mask_projector.", "model.out_mm_projector."),
    ("codebook.head.", "model.text_hidden_fcs.0."),
    ("decoder.neck.", "model.image_feature_neck."),
    ("decoder.position_map.", "model.prompt_encoder.pe_layer."),
    ("decoder.no_mask_embed.", "model.prompt_encoder.no_mask_embed."),
    ("decoder.", "model.mask_decoder."),
)
"""Our module's prefix -> the official one; the first that fits counts."""

UNUSED = re.compile(
    r".*rotary_emb\.inv_freq"  # computed at construction
    r"|model\.prompt_encoder\.(point_embeddings|not_a_point_embed|mask_downscaling)\..*"
    r"|.*vision_model\.(post_layernorm|embeddings\.position_ids).*"
    r"|text_model\..*|visual_projection\..*|text_projection\..*|logit_scale"  # a whole CLIP
)
"""Official keys that no computation of PixelLM reads."""

CLIP_PREFIX = "model.vision_tower.vision_tower."
CLIP_LAYER = re.compile(r".*vision_model\.encoder\.layers\.(\d+)\..*")
POSITION_TABLE = CLIP_PREFIX + "vision_model.embeddings.position_embedding.weight"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model, ready to use, and what it was read from."""

    model: PixelLM
    tokenizer: Tokenizer
    sha256: str
    """Over the weight files, config.json and the tokenizer files, in order of their names."""


def official_name(name: str) -> str:
    """The official key of one of our parameters."""
    for ours, theirs in NAMES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise CheckpointError(f"no official name is known for {name!r}")


def clip_name(key: str) -> str:
    """A key of Hugging Face's CLIP -> its name inside a PixelLM checkpoint."""
    return CLIP_PREFIX + key if key.startswith("vision_model.") else key


def read_config(folder: Path, weights: WeightSource, clip: Mapping[str, Any]) -> PixelLMConfig:
    """Every size, from config.json, the tokenizer and the shapes of the weights."""
    sizes = read_sizes(lambda name: weights.shape(official_name(f"decoder.{name}")))
    tokenizer = Tokenizer.from_folder(folder)
    seg_tokens = len(tokenizer.seg_ids)
    if seg_tokens % sizes.scales:
        raise CheckpointError(
            f"the tokenizer in {str(folder)!r} has {seg_tokens} segmentation tokens, which can't "
            f"be shared among {sizes.scales} image scales"
        )
    keys = read_json(folder / "config.json")
    config = config_from_json(keys, clip, sizes, seg_tokens // sizes.scales)
    if tokenizer.vocab_size > config.llama["vocab_size"]:
        raise CheckpointError(
            f"the tokenizer in {str(folder)!r} has ids up to {tokenizer.vocab_size - 1}, the "
            f"weights a vocabulary of {config.llama['vocab_size']}: they don't belong together"
        )
    return config


def load_checkpoint(
    folder: str | Path,
    clip_folder: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """Loads a PixelLM in eval mode.

    Args:
        folder: a model folder, in our form or the official one.
        clip_folder: CLIP's own folder. The official form needs it; our form has its own tower, and
            this is not read then.
        dtype: precision of the weights.
        device: where they go.

    Raises:
        CheckpointError: a weight is missing, unexpected or wrongly shaped; it is named.
        ConfigError: a size is missing or contradicts another one.
    """
    folder = Path(folder)
    config, sources = _open_folder(folder, clip_folder)
    model = empty_model(config, dtype=dtype, device=device)
    fill(model, sources)
    return Checkpoint(model.eval(), Tokenizer.from_folder(folder), folder_sha256(sources))


def check_folder(folder: str | Path) -> None:
    """Reads every size in a folder of our form, and no weight.

    Raises:
        CheckpointError: a file can't be read.
        ConfigError: a size is missing, wrong, or contradicts another one.
    """
    config, _ = _open_folder(Path(folder), None)
    sketch_model(config)


def _open_folder(
    folder: Path, clip_folder: str | Path | None
) -> tuple[PixelLMConfig, list[WeightFiles]]:
    """What a folder says of the sizes, and its weights, unread."""
    sources = [WeightFiles(folder)]
    vision = read_json(folder / "config.json").get("vision_config")
    if vision is None and clip_folder is not None:
        sources.append(WeightFiles(Path(clip_folder), clip_name))
        vision = read_json(Path(clip_folder) / "config.json")
    if vision is None:
        raise ConfigError(
            f"{str(folder)!r} holds no vision tower (the official form keeps CLIP apart): give "
            "CLIP's folder too, or join them once with python -m pixellm.convert"
        )
    clip = clip_from_json(vision, str(clip_folder or folder))
    return read_config(folder, sources[0], clip), sources


def sketch_model(config: PixelLMConfig) -> PixelLM:
    """A model that has shapes and no memory.

    Raises:
        ConfigError: its values don't go together.
    """
    try:
        with torch.device("meta"):
            return PixelLM(config)
    except Exception as error:  # torch and transformers raise whatever a value leads them to
        raise ConfigError(
            f"config.json has values of which no model can be made ({type(error).__name__}:"
            f" {error}): put right what this names, or take the file that belongs to the weights"
        ) from error


def empty_model(
    config: PixelLMConfig, *, dtype: torch.dtype, device: str | torch.device
) -> PixelLM:
    """A model without values: nothing is initialised only to be overwritten (Q24)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = sketch_model(config)
    finally:
        torch.set_default_dtype(before)
    model.to_empty(device=device)
    # Buffers that no checkpoint holds. Rotary angles stay in fp32 whatever the weights are.
    model.language.model.rotary_emb = LlamaRotaryEmbedding(config.llama_config()).to(device)
    embeddings = model.vision.clip.embeddings
    places = torch.arange(embeddings.num_positions, device=device)[None]
    embeddings.register_buffer("position_ids", places, persistent=False)
    return model


def fill(model: PixelLM, sources: Sequence[WeightSource]) -> None:
    """Copies every weight into the model; all problems are found before the first is reported."""
    state = official_state(model)
    for key, source in match_weights(model, sources).items():
        state[key].copy_(fit_table(key, source.get(key), model.config.grid))


def official_state(model: PixelLM) -> dict[str, Tensor]:
    """The model's own tensors under their official keys."""
    return {official_name(name): value for name, value in model.state_dict().items()}


def match_weights(model: PixelLM, sources: Sequence[WeightSource]) -> dict[str, WeightSource]:
    """Finds the source of every official key of a model; the first that has it counts.

    Raises:
        CheckpointError: a weight is missing, unexpected or wrongly shaped; it is named.
    """
    state = official_state(model)
    holders = {key: source for source in reversed(sources) for key in source.keys()}  # noqa: SIM118
    depth = len(model.vision.clip.encoder.layers)
    unexpected = sorted(key for key in holders if key not in state and not is_unused(key, depth))
    problems = [f"unexpected weight {key!r}" for key in unexpected]
    problems += [f"missing weight {key!r}" for key in sorted(set(state) - set(holders))]
    for key in sorted(set(state) & set(holders)):
        shape, needed = holders[key].shape(key), tuple(state[key].shape)
        if shape != needed and not _is_table(key, shape, needed):
            problems.append(f"weight {key!r} has the shape {shape}, the model needs {needed}")
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError("; ".join(problems[:5]) + more)
    return {key: holders[key] for key in sorted(state)}


def _is_table(key: str, shape: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Whether it is CLIP's position table at another size: a square of patches and the class."""
    square = len(shape) == 2 and isqrt(shape[0] - 1) ** 2 == shape[0] - 1 > 0
    return key == POSITION_TABLE and square and shape[1] == needed[1]


def fit_table(key: str, value: Tensor, grid: int) -> Tensor:
    """The weight; CLIP's position table brought to the model's (grid, grid) patches."""
    if key == POSITION_TABLE and value.shape[0] != grid * grid + 1:
        return resize_position_table(value, grid)
    return value


def is_unused(key: str, clip_depth: int) -> bool:
    """Whether an official key is one that no computation reads, given CLIP's kept layers."""
    layer = CLIP_LAYER.fullmatch(key)
    return bool(UNUSED.fullmatch(key)) or (layer is not None and int(layer[1]) >= clip_depth)


def save_checkpoint(
    model: PixelLM, tokenizer: Tokenizer, folder: str | Path, *, dtype: torch.dtype | None = None
) -> None:
    """Writes a folder of our form: official names, CLIP inside, position table already resized."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = (
        (key, value.detach().to("cpu", dtype).contiguous())
        for key, value in sorted(official_state(model).items())
    )
    save_weights(tensors, folder)
    (folder / "config.json").write_text(model.config.to_json(), encoding="utf-8")
    tokenizer.save(folder)
