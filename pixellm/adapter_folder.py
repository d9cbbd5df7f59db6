"""The folder of an adapter: which files it has, and what its configuration says.

    adapter_config.json          what LoRA's steps are multiplied by; it makes the folder an adapter
    adapter_model.safetensors    the steps, as PEFT writes them
    light/model.safetensors      weights that were learned whole and take the place of the model's

No model is needed for it: `pixellm.adapters` merges what lies in there.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pixellm.config_values import read_json
from pixellm.errors import CheckpointError
from pixellm.weights import WeightFiles

CONFIG_FILE, STEPS_FILE = "adapter_config.json", "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"
LIGHT_FOLDER = "light"
"""Of an adapter's folder: the parts that were learned whole."""

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


def adapter_files(folder: Path) -> list[Path]:
    """The files that decide what an adapter changes.

    Raises:
        CheckpointError: it is no adapter, none that is plain LoRA, or a file is missing.
        ConfigError: its configuration can't be read.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if why := why_no_adapter(names):
        raise CheckpointError(f"{str(folder)!r} {why}")
    read_lora(folder)
    light = folder / LIGHT_FOLDER
    whole = sorted(WeightFiles(light).paths) if light.is_dir() else []
    return [folder / CONFIG_FILE, folder / STEPS_FILE, *whole]


@dataclass(frozen=True, slots=True)
class Lora:
    """What an adapter's steps are made of and multiplied by."""

    rank: int
    alpha: float


def read_lora(folder: Path) -> Lora:
    """Reads an adapter's configuration.

    Raises:
        CheckpointError: it is no plain LoRA.
        ConfigError: it can't be read.
    """
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
    return Lora(rank, float(alpha))  # type: ignore[arg-type]


def _is_above_0(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]
