"""Model folders: reading and writing the weights of a PixelLM, under their official names.

A folder holds config.json, *.safetensors (one file, or shards with an index), tokenizer.model and
the tokenizer's JSON files. The official form keeps CLIP in a folder of its own; our form holds it in
the same files, under the names of the official training checkpoint.

Only safetensors are read here. Pickled weights go through `python -m pixellm.convert` first.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from pixellm.config import (
    DecoderSizes,
    PixelLMConfig,
    clip_from_json,
    config_from_json,
    read_json,
)
from pixellm.errors import CheckpointError, ConfigError
from pixellm.model import PixelLM
from pixellm.tokenizer import Tokenizer
from pixellm.vision import resize_position_table

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
SHARD_BYTES = 4 * 2**30
"""Weights are written in files of at most this size, so that object stores take them in one part."""


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


class WeightFiles:
    """The tensors of a folder's safetensors files, read one at a time."""

    def __init__(self, folder: Path, rename: Callable[[str], str] = str) -> None:
        self.folder = folder
        self.paths = sorted(folder.glob("*.safetensors"))
        if not self.paths:
            raise CheckpointError(_no_weights(folder))
        self._where: dict[str, tuple[Path, str]] = {}
        for path in self.paths:
            for key in self._open(path).keys():  # noqa: SIM118 (not a dict)
                self._where[rename(key)] = (path, key)

    def _open(self, path: Path) -> Any:  # noqa: ANN401 (safetensors has no public type)
        try:
            return safe_open(path, framework="pt")
        except Exception as error:  # its error class is not exported
            raise CheckpointError(
                f"{str(path)!r} isn't a readable safetensors file ({error}): download it again"
            ) from None

    def keys(self) -> set[str]:
        """All keys, renamed."""
        return set(self._where)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor; CheckpointError when it is missing."""
        path, name = self._find(key)
        return tuple(self._open(path).get_slice(name).get_shape())

    def get(self, key: str) -> Tensor:
        """A tensor; CheckpointError when it is missing."""
        path, name = self._find(key)
        return self._open(path).get_tensor(name)  # type: ignore[no-any-return]

    def _find(self, key: str) -> tuple[Path, str]:
        if key not in self._where:
            raise CheckpointError(f"the weight {key!r} is missing from {str(self.folder)!r}")
        return self._where[key]


def _no_weights(folder: Path) -> str:
    if not folder.is_dir():
        return (
            f"{str(folder)!r} isn't a folder. Model hubs are never asked: download the weights "
            "and give their folder"
        )
    if list(folder.glob("*.bin")):
        return (
            f"{str(folder)!r} holds pickled weights (*.bin), which are never loaded here. Convert "
            f"them once: python -m pixellm.convert --model {folder} --clip CLIP_FOLDER --output NEW"
        )
    return f"{str(folder)!r} holds no *.safetensors file: is this a model folder?"


def clip_name(key: str) -> str:
    """A key of Hugging Face's CLIP -> its name inside a PixelLM checkpoint."""
    return CLIP_PREFIX + key if key.startswith("vision_model.") else key


def read_config(folder: Path, weights: WeightFiles, clip: Mapping[str, Any]) -> PixelLMConfig:
    """Every size, from config.json, the tokenizer and the shapes of the weights."""
    scales, width = weights.shape("model.mask_decoder.level_embed.weight")
    mask_tokens, _ = weights.shape("model.mask_decoder.mask_tokens.weight")
    mlp, _ = weights.shape("model.mask_decoder.transformer.0.layers.0.mlp.lin1.weight")
    seg_tokens = len(Tokenizer.from_folder(folder).seg_ids)
    if seg_tokens == 0 or seg_tokens % scales:
        raise CheckpointError(
            f"the tokenizer in {str(folder)!r} has {seg_tokens} segmentation tokens, which can't "
            f"be shared among {scales} image scales"
        )
    sizes = DecoderSizes(width=width, mlp=mlp, scales=scales, mask_tokens=mask_tokens)
    return config_from_json(read_json(folder / "config.json"), clip, sizes, seg_tokens // scales)


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
        clip_folder: CLIP's own folder; needed for the official form only.
        dtype: precision of the weights.
        device: where they go.

    Raises:
        CheckpointError: a weight is missing, unexpected or wrongly shaped; it is named.
        ConfigError: a size is missing or contradicts another one.
    """
    folder = Path(folder)
    sources = [WeightFiles(folder)]
    vision = read_json(folder / "config.json").get("vision_config")
    if clip_folder is not None:
        sources.append(WeightFiles(Path(clip_folder), clip_name))
        vision = read_json(Path(clip_folder) / "config.json")
    if vision is None:
        raise ConfigError(
            f"{str(folder)!r} holds no vision tower (the official form keeps CLIP apart): give "
            "CLIP's folder too, or join them once with python -m pixellm.convert"
        )
    config = read_config(folder, sources[0], clip_from_json(vision, str(clip_folder or folder)))
    model = empty_model(config, dtype=dtype, device=device)
    fill(model, sources)
    tokenizer = Tokenizer.from_folder(folder)
    if max(tokenizer.seg_ids) >= int(config.llama["vocab_size"]):
        raise CheckpointError(
            f"segmentation token {max(tokenizer.seg_ids)} lies outside the vocabulary of "
            f"{config.llama['vocab_size']}: tokenizer and weights don't belong together"
        )
    return Checkpoint(model.eval(), tokenizer, folder_sha256(sources))


def empty_model(
    config: PixelLMConfig, *, dtype: torch.dtype, device: str | torch.device
) -> PixelLM:
    """A model without values: nothing is initialised only to be overwritten (Q24)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = PixelLM(config)
    finally:
        torch.set_default_dtype(before)
    model.to_empty(device=device)
    # Buffers that no checkpoint holds. Rotary angles stay in fp32 whatever the weights are.
    model.language.model.rotary_emb = LlamaRotaryEmbedding(config.llama_config()).to(device)
    embeddings = model.vision.clip.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]
    return model


def fill(model: PixelLM, sources: Iterable[WeightFiles]) -> None:
    """Copies every weight into the model; all problems are found before the first is reported."""
    holders = {key: source for source in sources for key in source.keys()}  # noqa: SIM118
    state = {official_name(name): value for name, value in model.state_dict().items()}
    depth = len(model.vision.clip.encoder.layers)
    unexpected = sorted(key for key in holders if key not in state and not _unused(key, depth))
    missing = sorted(key for key in state if key not in holders)
    problems = [f"unexpected weight {key!r}" for key in unexpected]
    problems += [f"missing weight {key!r}" for key in missing]
    for key in sorted(set(state) & set(holders)):
        value = holders[key].get(key)
        if key == POSITION_TABLE and value.shape != state[key].shape:
            value = resize_position_table(value, model.config.grid)
        if value.shape != state[key].shape:
            problems.append(
                f"weight {key!r} has the shape {tuple(value.shape)}, "
                f"the model needs {tuple(state[key].shape)}"
            )
        elif not problems:
            state[key].copy_(value)
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError("; ".join(problems[:5]) + more)


def _unused(key: str, clip_depth: int) -> bool:
    layer = CLIP_LAYER.fullmatch(key)
    return bool(UNUSED.fullmatch(key)) or (layer is not None and int(layer[1]) >= clip_depth)


def folder_sha256(sources: Iterable[WeightFiles]) -> str:
    """One digest for all files that decide what the model says."""
    digest = hashlib.sha256()
    for source in sources:
        names = {"config.json", "tokenizer.model", "added_tokens.json"}
        files = [path for path in source.folder.iterdir() if path.name in names]
        for path in sorted([*source.paths, *files], key=lambda path: path.name):
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def save_checkpoint(
    model: PixelLM, tokenizer: Tokenizer, folder: str | Path, *, dtype: torch.dtype | None = None
) -> None:
    """Writes a folder of our form: official names, CLIP inside, position table already resized."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        official_name(name): value.detach().to("cpu", dtype).contiguous()
        for name, value in model.state_dict().items()
    }
    save_weights(tensors, folder)
    (folder / "config.json").write_text(model.config.to_json(), encoding="utf-8")
    tokenizer.save(folder)


def save_weights(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """One model.safetensors, or numbered shards with Hugging Face's index when they are large."""
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for key in sorted(tensors):
        size = tensors[key].numel() * tensors[key].element_size()
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][key] = tensors[key]
        filled += size
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
