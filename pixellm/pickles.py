"""Pickled weight files, opened by torch's restricted reader. Only `pixellm.convert` does that.

A pickle can run any code when it is opened carelessly. Here nothing but named tensors is accepted.
"""

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pixellm.errors import CheckpointError


class PickledFiles:
    """The tensors of a folder's *.bin files, mapped from disk where their format allows it.

    Args:
        folder: holds pytorch_model.bin, or pytorch_model-00001-of-0000N.bin and so on.
        rename: gives a tensor's name from its name in the file.

    Raises:
        CheckpointError: a file is missing, or holds anything but named tensors.
    """

    def __init__(self, folder: Path, rename: Callable[[str], str] = str) -> None:
        self.folder = folder
        self._tensors: dict[str, Tensor] = {}
        for path in _pickle_paths(folder):
            for key, value in read_pickle(path).items():
                self._tensors[rename(key)] = value

    def keys(self) -> set[str]:
        """All names."""
        return set(self._tensors)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor; CheckpointError when it is missing."""
        return tuple(self.get(key).shape)

    def get(self, key: str) -> Tensor:
        """A tensor; CheckpointError when it is missing."""
        if key not in self._tensors:
            raise CheckpointError(f"the weight {key!r} is missing from {str(self.folder)!r}")
        return self._tensors[key]


def _pickle_paths(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("pytorch_model*.bin"))
    if not paths:
        raise CheckpointError(
            f"{str(folder)!r} holds neither *.safetensors nor pytorch_model*.bin: is it the folder "
            "of a model?"
        )
    wanted = {
        f"pytorch_model-{number:05d}-of-{match[2]}.bin"
        for path in paths
        if (match := re.fullmatch(r"pytorch_model-(\d+)-of-(\d+)\.bin", path.name))
        for number in range(1, int(match[2]) + 1)
    }
    if missing := sorted(wanted - {path.name for path in paths}):
        raise CheckpointError(f"{str(folder / missing[0])!r} is missing: download it too")
    return paths


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Reads named tensors and nothing else; no code of the file is run.

    Raises:
        CheckpointError: the file is damaged, or holds anything else.
    """
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{str(path)!r} is refused, nothing of it was run: it is damaged, or it holds code and "
            f"not only tensors. Get it again from a source you trust. ({_first_line(error)})"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r} holds a {type(content).__name__}, not named tensors")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{str(path)!r} holds {key!r}, a {type(value).__name__}: only named tensors are "
                "taken (is it a training state with its optimizer?)"
            )
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
