"""Folders of models and of adapters on this machine: fetched from buckets, and their digests.

What lies in a bucket is fetched once a machine, into `model_cache`, also when eight replicas start
in the same moment.
"""

import json
import re
import uuid
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from pixellm.adapter_folder import LIGHT_FOLDER, adapter_files, why_no_adapter
from pixellm.digests import adapter_sha256, folder_sha256
from pixellm.weights import WeightFiles
from workers.errors import SettingsError
from workers.settings import SHIPPED_MODEL
from workers.staging.folders import stage_folder
from workers.staging.room import GIB, Cache
from workers.storage.objects import ObjectInfo, Store
from workers.storage.stores import open_store
from workers.storage.uris import scheme_of, shown, under

FETCHED_SUFFIXES = (".safetensors", ".json", ".model")
"""What a folder of weights needs; pickles are never fetched."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def fetch_model(place: str, cache: Path, most_gib: float | None = None) -> Path:
    """The model folder on this machine; a model in a bucket is fetched when it isn't there yet.

    Args:
        place: a folder, or a prefix in a bucket.
        cache: folder for models of buckets.
        most_gib: that all models of buckets may take there; None: as much as the disk holds.

    Raises:
        SettingsError: there is no such folder, or no room beside the models that are in use.
        StorageError: it can't be fetched.
    """
    if scheme_of(place):
        store = open_store(place)
        files = _list_needed(store, place, folders=())
        if not any(name.endswith(".safetensors") for name in files):
            raise SettingsError(f"--model {shown(place)}: there is no *.safetensors file")
        return stage_folder(
            store, files, "models", _room(cache, most_gib), f"--model {shown(place)}"
        )
    if not Path(place).is_dir():
        raise SettingsError(say_no_folder(place))
    return Path(place)


def fetch_adapter(place: str, cache: Path, most_gib: float | None = None) -> Path:
    """The folder of an adapter on this machine, as `fetch_model` has that of a model.

    Raises:
        SettingsError: there is no adapter, or its weights are pickled.
        StorageError: it can't be fetched.
    """
    if not scheme_of(place):
        folder = Path(place)
        if not folder.is_dir():
            raise SettingsError(f"--adapter {shown(place)}: there is no such folder")
        _check_adapter(place, [path.name for path in folder.iterdir()])
        return folder
    store = open_store(place)
    _check_adapter(place, [under(info.uri, place) or "" for info in store.list(place)])
    files = _list_needed(store, place, folders=(LIGHT_FOLDER,))
    room, what = _room(cache, most_gib), f"--adapter {shown(place)}"
    return stage_folder(store, files, "adapters", room, what)


def model_sha256(folder: Path, cache: Path) -> str:
    """The digest of a model folder; files of 13 GB are read only when size or time has changed.

    Raises:
        CheckpointError: it holds no weights that can be read.
    """
    weights = WeightFiles(folder)
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return _remembered(folder, files, lambda: folder_sha256([weights]), cache)


def digest_adapter(folder: Path, cache: Path) -> str:
    """The digest of an adapter's folder; as for a model, it is remembered.

    Raises:
        CheckpointError, ConfigError: it is no adapter that can be merged.
    """
    return _remembered(folder, adapter_files(folder), lambda: adapter_sha256(folder), cache)


def _check_adapter(place: str, names: Sequence[str]) -> None:
    if why := why_no_adapter(names):
        raise SettingsError(f"--adapter {shown(place)} {why}")


def say_no_folder(place: str) -> str:
    """For whoever named it: it isn't there, and hubs are not asked."""
    if place == SHIPPED_MODEL:
        return f"the model that comes with the project is missing from {place!r}; give --model"
    as_typed = under(place, f"{Path.cwd()}") or place
    message = f"--model {as_typed!r}: there is no such folder."
    if _HUB_ID.fullmatch(as_typed):
        message += " Model hubs are never asked: download the weights and give their folder."
    return message


# ---- from a bucket ----


def _list_needed(store: Store, place: str, folders: Sequence[str]) -> dict[str, ObjectInfo]:
    """Files of the prefix itself and of some folders in it, by their names below the prefix."""
    infos = ((under(info.uri, place) or "", info) for info in store.list(place))
    return {
        name: info
        for name, info in infos
        if name.endswith(FETCHED_SUFFIXES) and name.rpartition("/")[0] in ("", *folders)
    }


def _room(cache: Path, most_gib: float | None) -> Cache:
    return Cache(cache, None if most_gib is None else int(most_gib * GIB))


# ---- digests ----


def _remembered(folder: Path, files: Sequence[Path], read: Callable[[], str], cache: Path) -> str:
    """What `read` gives, unless a note says it already, of files of the same sizes and times."""
    seen = [
        [path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
        for path in files
    ]
    note = cache / "sha256" / f"{sha256(str(folder.resolve()).encode()).hexdigest()[:20]}.json"
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        if noted["files"] == seen:
            return str(noted["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no note, or not ours: read the files
    digest = read()
    _write_note(note, {"files": seen, "sha256": digest})
    return digest


def _write_note(note: Path, values: dict[str, object]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        aside = note.with_name(f".{note.name}-{uuid.uuid4().hex}")
        aside.write_text(json.dumps(values), encoding="utf-8")
        aside.replace(note)
    except OSError:
        pass  # a home that can't be written to: the next run reads the files again
