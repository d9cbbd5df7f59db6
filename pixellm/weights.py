"""Weight files: named tensors in a folder, read and written one file at a time.

Only safetensors are read here: they can hold nothing but tensors. `pixellm.convert` knows pickles.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from safetensors import safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor

from pixellm.config_values import read_json
from pixellm.errors import CheckpointError

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 4 * 2**30
"""A file of weights is at most this large, so that object stores take it in one part."""

FILE_MODE = 0o644
"""Weights are for all who may enter the folder; safetensors leaves them to the owner alone."""


class WeightSource(Protocol):
    """Named tensors of a folder, wherever they come from."""

    @property
    def folder(self) -> Path:
        """Where they lie."""

    def keys(self) -> set[str]:
        """All names."""

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor; CheckpointError when it is missing."""

    def get(self, key: str) -> Tensor:
        """A tensor; CheckpointError when it is missing."""


class WeightFiles:
    """The tensors of a folder's safetensors files, read one at a time.

    Args:
        folder: holds model.safetensors, or shards with Hugging Face's index.
        rename: gives a tensor's name from its name in the file.
        name: of the only file to be read; all that belong together without it.

    Raises:
        CheckpointError: no file is there, one can't be read, or two hold the same name.
    """

    def __init__(
        self, folder: Path, rename: Callable[[str], str] = str, *, name: str | None = None
    ) -> None:
        self.folder = folder
        self.paths = [folder / name] if name else _weight_paths(folder)
        self._files = {path: _open(path) for path in self.paths}
        self._where: dict[str, tuple[Path, str]] = {}
        for path, file in self._files.items():
            for key in file.keys():  # noqa: SIM118 (not a dict)
                name = rename(key)
                if name in self._where:
                    other = self._where[name][0]
                    raise CheckpointError(
                        f"the weight {name!r} is in {str(path)!r} and in {str(other)!r}: "
                        "keep one of the files"
                    )
                self._where[name] = (path, key)

    def keys(self) -> set[str]:
        """All names."""
        return set(self._where)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor; CheckpointError when it is missing."""
        path, name = self._find(key)
        return tuple(self._files[path].get_slice(name).get_shape())

    def get(self, key: str) -> Tensor:
        """A tensor; CheckpointError when it is missing."""
        path, name = self._find(key)
        return self._files[path].get_tensor(name)

    def _find(self, key: str) -> tuple[Path, str]:
        if key not in self._where:
            raise CheckpointError(f"the weight {key!r} is missing from {str(self.folder)!r}")
        return self._where[key]


def _open(path: Path) -> Any:  # noqa: ANN401 (safetensors has no public type)
    try:
        return safe_open(path, framework="pt")
    except Exception as error:  # its error class is not exported
        raise CheckpointError(
            f"{str(path)!r} isn't a readable safetensors file ({error}): download it again"
        ) from None


def _weight_paths(folder: Path) -> list[Path]:
    """The files that the index names, or all that are there when there is no index."""
    if not (folder / INDEX_FILE).is_file():
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise CheckpointError(_no_weights(folder))
        return paths
    shards = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(
            f"{str(folder / INDEX_FILE)!r} has no `weight_map` from weights to files: copy it anew,"
            " or remove it where all weights lie in files beside it"
        )
    # Names only: an index can't point outside of its folder.
    paths = sorted({folder / Path(str(name)).name for name in shards.values()})
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{str(path)!r} is missing, but {INDEX_FILE} names it")
    return paths


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


def save_weights(
    tensors: Iterable[tuple[str, Tensor]], folder: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes one model.safetensors, or numbered shards with Hugging Face's index.

    Args:
        tensors: names and contiguous CPU tensors. They are taken one by one and let go with their
            file, so that an iterator needs the memory of one file only.
        folder: where to; it exists.
        shard_bytes: the most that a file holds, unless a single tensor is larger.
    """
    shards: list[tuple[Path, list[str]]] = []
    total = 0
    for shard in _in_shards(tensors, shard_bytes):
        path = folder / f"part-{len(shards):05d}.safetensors"
        save_file(shard, path, metadata={"format": "pt"})
        path.chmod(FILE_MODE)
        shards.append((path, list(shard)))
        total += sum(map(_bytes, shard.values()))
        del shard  # before the next one is gathered
    if len(shards) == 1:
        shards[0][0].rename(folder / WEIGHTS_FILE)
        return
    weight_map: dict[str, str] = {}
    for number, (path, keys) in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        path.rename(folder / name)
        weight_map.update(dict.fromkeys(keys, name))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def pack_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Contiguous CPU tensors as the bytes of a safetensors file."""
    return bytes(save(tensors))


def unpack_tensors(data: bytes) -> dict[str, Tensor]:
    """What `pack_tensors` packed."""
    return dict(load(data))


def _in_shards(
    tensors: Iterable[tuple[str, Tensor]], shard_bytes: int
) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    filled = 0
    for key, tensor in tensors:
        if shard and filled + _bytes(tensor) > shard_bytes:
            yield shard
            shard, filled = {}, 0
        shard[key] = tensor
        filled += _bytes(tensor)
    yield shard


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
