"""An adapter: what a model has learned, in a folder beside the model, and how it comes into it.

What lies in such a folder says `pixellm.adapter_folder`. Reading is merging: W + alpha / rank *
B @ A. PEFT isn't asked to read, since its reader takes pickles and the hub's files where
safetensors are missing, and imports what a configuration names.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from pixellm.adapter_folder import LIGHT_FOLDER, STEPS_FILE, Lora, adapter_files, read_lora
from pixellm.checkpoints import official_state
from pixellm.errors import CheckpointError
from pixellm.model import PixelLM
from pixellm.weights import WeightFiles

PEFT_PREFIX = "base_model.model."
"""PEFT's name for the model inside of its own."""
_STEP = re.compile(re.escape(PEFT_PREFIX) + r"(.+)\.lora_(A|B)\.weight")


def load_adapter(model: PixelLM, folder: Path) -> PixelLM:
    """The model with an adapter merged into its weights, which are changed in place.

    Raises:
        CheckpointError: it is no adapter, none that is plain LoRA, or one of another model; then
            the model is as it was.
        ConfigError: its configuration can't be read.
    """
    adapter_files(folder)
    lora = read_lora(folder)
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


def _stepped_layers(steps: WeightFiles, lora: Lora, model: PixelLM) -> list[str]:
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


def _step_once(weight: Tensor, first: Tensor, second: Tensor, lora: Lora) -> None:
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
