"""What weights are known by: one digest for all files of a folder that decide what a model says.

No model is made of them, and nothing is imported that could: a driver wants no more.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pixellm.adapter_folder import adapter_files
from pixellm.added_tokens import ADDED_FILE, CONFIG_FILE, MAP_FILE
from pixellm.tokenizer import MODEL_FILE
from pixellm.weights import WeightFiles


def folder_sha256(sources: Iterable[WeightFiles]) -> str:
    """One digest for all files that decide what the model says."""
    digest = hashlib.sha256()
    names = {"config.json", MODEL_FILE, ADDED_FILE, MAP_FILE, CONFIG_FILE}
    for source in sources:
        files = [path for path in source.folder.iterdir() if path.name in names]
        for path in sorted([*source.paths, *files], key=lambda path: path.name):
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


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
