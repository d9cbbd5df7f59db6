"""Joins a published PixelLM and its CLIP into one safetensors folder that everything here loads.

    python -m pixellm.convert --model PixelLM-7B --clip clip-vit-large-patch14-336 --output weights

The published files are pickles, which can run any code when they are opened carelessly. Here they
are opened by torch's restricted reader, once, offline; what isn't a plain tensor is refused. The
training-time form (names beginning with "base_model.model.", LoRA beside the weights) is merged.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pixellm.checkpoints import (
    clip_name,
    empty_model,
    fit_table,
    match_weights,
    read_config,
)
from pixellm.config import PixelLMConfig, clip_from_json
from pixellm.config_values import read_json
from pixellm.errors import CheckpointError, PixelLMError
from pixellm.pickles import PickledFiles
from pixellm.tokenizer import Tokenizer
from pixellm.weights import WeightFiles, WeightSource, save_weights

OFFICIAL_LORA_ALPHA = 16.0
"""The release's --lora_alpha. It is in no file of a training-time checkpoint."""
SHARD_BYTES = 2 * 2**30
"""A file of the result. One is in memory at a time, twice while it is written."""
TRAINING_PREFIX = "base_model.model."
LORA = re.compile(r"(.+)\.lora_([AB])\.default\.weight")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class MergedWeights:
    """The training-time form of a checkpoint as if it had been published: prefix off, LoRA merged.

    A published checkpoint passes through unchanged.

    Args:
        source: the weights as they were saved.
        lora_alpha: the training's --lora_alpha; a merged weight is W + alpha / r * B @ A.

    Raises:
        CheckpointError: half of a LoRA pair is missing, or the weight that it adapts.
    """

    def __init__(self, source: WeightSource, lora_alpha: float = OFFICIAL_LORA_ALPHA) -> None:
        self.folder, self._source, self._alpha = source.folder, source, lora_alpha
        self._names: dict[str, str] = {}
        self._lora: dict[str, dict[str, str]] = {}
        for key in sorted(source.keys()):
            name = key.removeprefix(TRAINING_PREFIX).replace(".base_layer.", ".")
            if match := LORA.fullmatch(name):
                self._lora.setdefault(f"{match[1]}.weight", {})[match[2]] = key
            else:
                self._names[name] = key
        for name, pair in self._lora.items():
            if name not in self._names or pair.keys() != {"A", "B"}:
                raise CheckpointError(
                    f"the LoRA weights {sorted(pair.values())!r} can't be merged: "
                    f"{name!r} or the other half of the pair is missing"
                )

    @property
    def adapted(self) -> int:
        """How many weights have a LoRA to merge."""
        return len(self._lora)

    def keys(self) -> set[str]:
        """All names, as a published checkpoint has them."""
        return set(self._names)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor; CheckpointError when it is missing."""
        return self._source.shape(self._names.get(key, key))

    def get(self, key: str) -> Tensor:
        """A tensor, with its LoRA merged in fp32; CheckpointError when it is missing."""
        weight = self._source.get(self._names.get(key, key))
        if key not in self._lora:
            return weight
        down, up = (self._source.get(self._lora[key][half]).float() for half in "AB")
        if down.shape[0] != up.shape[1] or (up.shape[0], down.shape[1]) != weight.shape:
            raise CheckpointError(
                f"the LoRA of {key!r} has the shapes {tuple(down.shape)} and {tuple(up.shape)}, "
                f"which don't fit {tuple(weight.shape)}"
            )
        merged = weight.float() + self._alpha / down.shape[0] * (up @ down)
        return merged.to(weight.dtype)


def open_weights(folder: Path, rename: Callable[[str], str] = str) -> WeightSource:
    """The weights of a folder: safetensors when it has them, pickles otherwise."""
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        return PickledFiles(folder, rename)
    return WeightFiles(folder, rename)


def convert(
    model_folder: Path,
    clip_folder: Path,
    output: Path,
    *,
    dtype: torch.dtype | None = None,
    lora_alpha: float = OFFICIAL_LORA_ALPHA,
    report: Callable[[str], None] = print,
) -> None:
    """Writes one folder of our form; see `pixellm.checkpoints`.

    Args:
        model_folder: a published or training-time PixelLM.
        clip_folder: the CLIP that it was trained with. Where the model holds its own copy, only the
            sizes are taken from here.
        output: a new or empty folder.
        dtype: precision of the result; as stored when None.
        lora_alpha: of the training, where LoRA is merged.
        report: takes lines that say how far it is.

    Raises:
        CheckpointError: the output isn't empty; a weight is missing, unexpected or wrongly shaped;
            a file can't be read.
        ConfigError: a size is missing or contradicts another one.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{str(output)!r} isn't an empty folder: give a new one")
    # 1) everything is checked before anything is written
    merged = MergedWeights(open_weights(model_folder), lora_alpha)
    vision = clip_from_json(read_json(clip_folder / "config.json"), str(clip_folder))
    config = read_config(model_folder, merged, vision)
    model = empty_model(config, dtype=torch.float32, device="meta")
    holders = match_weights(model, [merged, open_weights(clip_folder, clip_name)])
    report(f"{len(holders)} weights found, {merged.adapted} with LoRA to merge")
    # 2) the weights, file by file; config.json last, so that half a folder is never taken for whole
    output.mkdir(parents=True, exist_ok=True)
    save_weights(_converted(holders, config.grid, dtype, report), output, SHARD_BYTES)
    Tokenizer.from_folder(model_folder).save(output)
    (output / "config.json").write_text(_in_precision(config, dtype).to_json(), encoding="utf-8")
    report(f"done: {output}")


def _in_precision(config: PixelLMConfig, dtype: torch.dtype | None) -> PixelLMConfig:
    if dtype is None:
        return config
    name = str(dtype).removeprefix("torch.")
    return replace(config, official={**config.official, "torch_dtype": name})


def _converted(
    holders: Mapping[str, WeightSource],
    grid: int,
    dtype: torch.dtype | None,
    report: Callable[[str], None],
) -> Iterator[tuple[str, Tensor]]:
    """All weights of the result, one by one."""
    total, written = len(holders), 0
    for number, (key, source) in enumerate(holders.items(), 1):
        value = fit_table(key, source.get(key), grid)
        # a copy: a mapped file's tensors share one storage, which safetensors refuses
        value = value.to(dtype or value.dtype, copy=True).contiguous()
        written += value.numel() * value.element_size()
        if number % 50 == 0 or number == total:
            report(f"{number} of {total} weights, {written / 2**30:.2f} GiB: {key}")
        yield key, value


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when the folder is written, 1 when something is wrong with the input."""
    parser = argparse.ArgumentParser(
        prog="python -m pixellm.convert",
        description="Joins a published PixelLM and its CLIP into one safetensors folder.",
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of the PixelLM")
    parser.add_argument("--clip", type=Path, required=True, help="folder of its CLIP")
    parser.add_argument("--output", type=Path, required=True, help="new folder for the result")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="precision; as stored if not given")
    parser.add_argument(
        "--lora-alpha",
        type=float,
        default=OFFICIAL_LORA_ALPHA,
        help="the training's --lora_alpha, for a checkpoint whose LoRA isn't merged",
    )
    options = parser.parse_args(arguments)
    try:
        convert(
            options.model,
            options.clip,
            options.output,
            dtype=DTYPES[options.dtype] if options.dtype else None,
            lora_alpha=options.lora_alpha,
        )
    except PixelLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
