"""A PixelLM some of whose weights learn (`pixellm.learners` says which), and what it has learned.

What comes out is a whole model (`merged_state`), or a folder with an adapter that plain PEFT loads
and, beside it, the parts that were learned whole (`save_adapter`, see `pixellm.adapters`).
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from pixellm.adapter_folder import LIGHT_FOLDER, STEPS_FILE
from pixellm.adapters import PEFT_PREFIX
from pixellm.checkpoints import official_name
from pixellm.errors import CheckpointError
from pixellm.learners import Tuning
from pixellm.model import PixelLM
from pixellm.tokenizer import Tokenizer
from pixellm.weights import FILE_MODE, save_weights

ADAPTER = "default"
"""PEFT's name for the only adapter of a model."""
NECK = ("decoder.neck.", "decoder.no_mask_embed.")
LIGHT = (
    "language.lm_head.",
    "language.model.embed_tokens.",
    "image_projector.",
    "mask_projector.",
    "codebook.",
    "decoder.",
)
_UNREACHED = re.compile(r"decoder\.(iou_prediction_head|output_hypernetworks_mlps\.[1-9]\d*)\.")
"""No loss comes of these, so they stay as they are: PixelLM's masks are those of the first mask
token, and nobody is told how good they are (spec, section 5)."""
Whole = Callable[[Tensor], Tensor]
"""Of a weight, all of it (`pixellm.peers.Peers.whole`)."""


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


class TunedModel:
    """A model some of whose weights learn.

    Args:
        model: is changed: its weights' `requires_grad`, and LoRA's layers come in.
        tuning: what learns.
        seed: of LoRA's first weights, the same on all workers.
    """

    def __init__(self, model: PixelLM, tuning: Tuning, seed: int = 0) -> None:
        self.model, self.tuning = model, tuning
        self.peft: PeftModel | None = None
        model.requires_grad_(False)
        if tuning.rank and not tuning.full:
            config = LoraConfig(
                r=tuning.rank,
                lora_alpha=tuning.alpha,
                lora_dropout=tuning.dropout,
                target_modules=tuning.pattern,
                bias="none",
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.peft = cast(PeftModel, get_peft_model(model, config))
        for name, weight in model.named_parameters():
            if _learns(name, tuning):
                weight.requires_grad_(True)
        if not self.trained():
            raise ValueError("nothing would learn: LoRA's rank is 0, and so are all other parts")

    def trained(self) -> dict[str, nn.Parameter]:
        """All that learns, by its name in the model."""
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}

    def merged_state(self, whole: Whole = _as_it_is) -> Iterator[tuple[str, Tensor]]:
        """All weights under their official names, LoRA's steps added; the model stays as it is.

        Args:
            whole: gathers a weight of which each worker holds a part; all of them must ask.
        """
        steps = {
            f"{name}.base_layer.weight": layer
            for name, layer in self.model.named_modules()
            if isinstance(layer, LoraLinear)
        }
        for name, value in self.model.state_dict().items():
            if ".lora_" not in name:
                layer = steps.get(name)
                merged = whole(value) if layer is None else _merge(value, layer, whole)
                yield official_name(name.replace(".base_layer.", ".")), merged

    def save_merged(
        self,
        tokenizer: Tokenizer,
        folder: Path,
        dtype: torch.dtype | None = None,
        whole: Whole = _as_it_is,
    ) -> None:
        """Writes a model folder as any other: what was learned is part of its weights.

        Args:
            tokenizer: of the model.
            folder: is made.
            dtype: of the weights; as they are where nothing is said.
            whole: as in `merged_state`; the other workers go through that.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors = (
            (name, value.detach().to("cpu", dtype).contiguous())
            for name, value in self.merged_state(whole)
        )
        save_weights(tensors, folder)
        (folder / "config.json").write_text(self.model.config.to_json(), encoding="utf-8")
        tokenizer.save(folder)

    def learned_state(self, whole: Whole = _as_it_is) -> Iterator[tuple[str, Tensor]]:
        """All that learns, by its name in the model; `whole` as in `merged_state`."""
        for name, weight in self.trained().items():
            yield name, whole(weight.detach())

    def save_adapter(self, folder: Path, whole: Whole = _as_it_is) -> None:
        """Writes adapter_config.json and adapter_model.safetensors as PEFT does, and `light`.

        Args:
            folder: is made.
            whole: as in `merged_state`; the other workers go through `learned_state`.

        Raises:
            CheckpointError: there is no adapter: everything learned, or no LoRA was asked for.
        """
        if self.peft is None:
            raise CheckpointError(
                "there is no adapter to write: all weights learned, or LoRA's rank is 0. Write the "
                "whole model instead"
            )
        learned = {name: _on_host(value) for name, value in self.learned_state(whole)}
        steps = {f"{PEFT_PREFIX}{name}": learned[name] for name in learned if ".lora_" in name}
        # by itself PEFT asks the hub whether the vocabulary has grown
        self.peft.save_pretrained(str(folder), state_dict=steps, save_embedding_layers=False)
        (folder / STEPS_FILE).chmod(FILE_MODE)
        if light := sorted(name for name in learned if ".lora_" not in name):
            (folder / LIGHT_FOLDER).mkdir(exist_ok=True)
            save_weights(
                ((official_name(name), learned[name]) for name in light), folder / LIGHT_FOLDER
            )


def _learns(name: str, tuning: Tuning) -> bool:
    if _UNREACHED.match(name):
        return False
    if tuning.full or ".lora_" in name:
        return True
    if name.startswith(NECK):
        return tuning.neck
    return tuning.light and name.startswith(LIGHT)


def _merge(value: Tensor, layer: LoraLinear, whole: Whole) -> Tensor:
    step = layer.get_delta_weight(ADAPTER)
    return (whole(value).float() + whole(step).float()).to(value.dtype)


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
