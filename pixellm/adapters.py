"""An adapter: what a model has learned, in a folder beside the model, and how it comes into it.

    adapter_config.json          what LoRA's steps are multiplied by; it makes the folder an adapter
    adapter_model.safetensors    the steps, as PEFT writes them
    light/model.safetensors      weights that were learned whole and take the place of the model's

Reading is merging: W + alpha / rank * B @ A. PEFT isn't asked to read, since its reader takes
pickles and the hub's files where safetensors are missing, and imports what a configuration names.
"""

import hashlib
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pixellm.checkpoints import official_state
from pixellm.config import read_json
from pixellm.errors import CheckpointError
from pixellm.model import PixelLM
from pixellm.weights import WeightFiles

CONFIG_FILE, STEPS_FILE = "adapter_config.json", "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"
LIGHT_FOLDER = "light"
"""Of an adapter's folder: the parts that were learned whole."""
PEFT_PREFIX = "base_model.model."
"""PEFT's name for the model inside of its own."""
_STEP = re.compile(re.escape(PEFT_PREFIX) + r"(.+)\.lora_(A|B)\.weight")

_PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # others change the model's own weights
}
"""Keys of the configuration, and with which values an adapter is plain LoRA."""
_UNASKED = frozenset(
    {
        *("r", "lora_alpha"),  # these are read
        *("lora_dropout", "inference_mode", "task_type"),  # of training
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),  # see keys
        *("auto_mapping", "base_model_name_or_path", "revision", "peft_version"),  # of its origin
        *("megatron_core", "qalora_group_size"),  # of forms that other keys choose
    }
)
"""Keys that say nothing about the steps which the steps themselves don't."""


def why_no_adapter(names: Collection[str]) -> str | None:
    """What is wrong with a folder that should hold an adapter, by the names of its files."""
    if CONFIG_FILE not in names:
        return f"holds no {CONFIG_FILE}: it must be what jobs/train.py or PEFT has written"
    if STEPS_FILE in names:
        return None
    if PICKLED_FILE in names:
        return (
            f"holds {PICKLED_FILE}, a pickle, which is never read here: load it where you trust it,"
            " and write it again with PEFT's save_pretrained, which makes safetensors"
        )
    return f"holds no {STEPS_FILE}: was it copied whole?"


def adapter_sha256(folder: Path) -> str:
    """One digest for all files that decide what an adapter changes.

    Raises:
        CheckpointError, ConfigError: as `adapter_files`.
    """
    digest = hashlib.sha256()
    for path in adapter_files(folder):
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def adapter_files(folder: Path) -> list[Path]:
    """The files that decide what an adapter changes.

    Raises:
        CheckpointError: it is no adapter, none that is plain LoRA, or a file is missing.
        ConfigError: its configuration can't be read.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if why := why_no_adapter(names):
        raise CheckpointError(f"{str(folder)!r} {why}")
    _read_lora(folder)
    light = folder / LIGHT_FOLDER
    whole = sorted(WeightFiles(light).paths) if light.is_dir() else []
    return [folder / CONFIG_FILE, folder / STEPS_FILE, *whole]


def load_adapter(model: PixelLM, folder: Path) -> PixelLM:
    """The model with an adapter merged into its weights, which are changed in place.

    Raises:
        CheckpointError: it is no adapter, none that is plain LoRA, or one of another model; then
            the model is as it was.
        ConfigError: its configuration can't be read.
    """
    adapter_files(folder)
    lora = _read_lora(folder)
    steps = WeightFiles(folder, name=STEPS_FILE)
    layers = _stepped_layers(steps, lora, model)
    whole = WeightFiles(folder / LIGHT_FOLDER) if (folder / LIGHT_FOLDER).is_dir() else None
    if whole:
        _check_whole(whole, model)
    state = model.state_dict()
    with torch.no_grad():
        for layer in layers:
            first, second = (steps.get(_key(layer, side)) for side in "AB")
            _step_once(state[f"{layer}.weight"], first, second, lora)
        if whole:
            fill_whole(model, whole)
    return model


def fill_whole(model: PixelLM, files: WeightFiles) -> None:
    """Puts parts that were learned whole into a model that they fit."""
    state = official_state(model)
    for key in sorted(files.keys()):
        state[key].copy_(files.get(key))


@dataclass(frozen=True, slots=True)
class _Lora:
    rank: int
    alpha: float


def _read_lora(folder: Path) -> _Lora:
    file = folder / CONFIG_FILE
    values = {"peft_type": None, **read_json(file)}
    for key, value in values.items():
        is_plain = value in _PLAIN[key] if key in _PLAIN else key in _UNASKED or not value
        if not is_plain:
            raise CheckpointError(
                f"{str(file)!r} says {key} = {value!r}, and only plain LoRA is merged here: merge"
                " it with PEFT, and give the whole model"
            )
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if not (isinstance(rank, int) and _is_above_0(rank) and _is_above_0(alpha)):
        raise CheckpointError(
            f"{str(file)!r} must have numbers above 0 as r and lora_alpha, not {rank!r} and"
            f" {alpha!r}"
        )
    return _Lora(rank, float(alpha))  # type: ignore[arg-type]


def _is_above_0(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]


def _stepped_layers(steps: WeightFiles, lora: _Lora, model: PixelLM) -> list[str]:
    """Names of the layers that have steps, all of which fit."""
    state, layers = model.state_dict(), set[str]()
    for key in sorted(steps.keys()):
        found = _STEP.fullmatch(key)
        weight = state.get(f"{found[1]}.weight") if found else None
        if found is None or weight is None or weight.dim() != 2:
            raise CheckpointError(_no_place(key, steps.folder))
        layers.add(found[1])
    if not layers:
        raise CheckpointError(f"{str(steps.folder / STEPS_FILE)!r} is empty: nothing was learned")
    for layer in layers:
        rows, columns = state[f"{layer}.weight"].shape
        for side, shape in (("A", (lora.rank, columns)), ("B", (rows, lora.rank))):
            if steps.shape(key := _key(layer, side)) != shape:
                raise CheckpointError(_no_fit(key, steps, shape))
    return sorted(layers)


def _check_whole(files: WeightFiles, model: PixelLM) -> None:
    state = official_state(model)
    for key in sorted(files.keys()):
        if key not in state:
            raise CheckpointError(_no_place(key, files.folder))
        if files.shape(key) != (shape := tuple(state[key].shape)):
            raise CheckpointError(_no_fit(key, files, shape))


def _no_place(key: str, folder: Path) -> str:
    return (
        f"the weight {key!r} in {str(folder)!r} does not fit this model, which has no such layer:"
        " was the adapter trained from another one?"
    )


def _no_fit(key: str, files: WeightFiles, needed: tuple[int, ...]) -> str:
    return (
        f"the weight {key!r} in {str(files.folder)!r} has the shape {files.shape(key)} and does not"
        f" fit this model, which needs {needed}: was the adapter trained from another one?"
    )


def _key(layer: str, side: str) -> str:
    return f"{PEFT_PREFIX}{layer}.lora_{side}.weight"


def _step_once(weight: Tensor, first: Tensor, second: Tensor, lora: _Lora) -> None:
    """Adds a step to a weight, in fp32.

    Args:
        weight: (out, in).
        first: (rank, in), LoRA's A.
        second: (out, rank), LoRA's B.
        lora: alpha / rank is what the step is multiplied by.
    """
    there = weight.device
    step = second.to(there, torch.float32) @ first.to(there, torch.float32)
    weight.copy_(weight.float() + step * (lora.alpha / lora.rank))
