"""The receipt of a staged folder: what it is made of, and what was found when it was checked.

It lies beside the folder, and is there before it: then it says how much room the folder will take.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Self

from workers.storage.objects import ObjectInfo


@dataclass(frozen=True, slots=True)
class StagedFile:
    """One file of a folder."""

    uri: str
    etag: str
    """of the version"""
    size: int
    """bytes"""
    sha256: str = ""
    """of what was fetched and found right; empty before that"""
    mtime_ns: int = 0
    """of the file then"""

    @property
    def info(self) -> ObjectInfo:
        """The object that it is a copy of."""
        return ObjectInfo(self.uri, self.size, self.etag)

    def checked(self, path: Path, digest: str) -> Self:
        """The same, once the file at `path` is right."""
        return replace(self, sha256=digest, mtime_ns=path.stat().st_mtime_ns)

    def is_untouched(self, path: Path) -> bool:
        """Whether nobody has written to it since it was checked, as size and time tell."""
        try:
            found = path.stat()
        except OSError:
            return False
        return bool(self.sha256) and (found.st_size, found.st_mtime_ns) == (
            self.size,
            self.mtime_ns,
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """The files of a folder by their names in it."""

    files: Mapping[str, StagedFile]

    @classmethod
    def of(cls, infos: Mapping[str, ObjectInfo]) -> Self:
        """Before anything is fetched."""
        return cls({name: StagedFile(i.uri, i.etag, i.size) for name, i in infos.items()})

    @property
    def key(self) -> str:
        """The folder's name, made of its content: another version is another folder."""
        content = "\n".join(f"{file.uri} {file.etag} {file.size}" for file in self.files.values())
        return sha256(content.encode()).hexdigest()[:20]

    @property
    def bytes(self) -> int:
        """That the whole folder takes."""
        return sum(file.size for file in self.files.values())

    def is_untouched(self, folder: Path) -> bool:
        """Whether the folder is whole, and as it was when it was checked."""
        return all(file.is_untouched(folder / name) for name, file in self.files.items())

    def write(self, path: Path) -> None:
        """Puts it there, whole or not at all."""
        aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        text = json.dumps({name: asdict(file) for name, file in self.files.items()})
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)


def read_receipt(path: Path) -> Receipt | None:
    """The receipt of a folder; None where there is none, or it isn't one of ours."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Receipt({name: StagedFile(**value) for name, value in values.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
