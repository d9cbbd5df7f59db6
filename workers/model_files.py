"""The model of a run: where its files are on this machine, what identifies them, and its engine.

A model in a bucket is fetched once a machine, into `model_cache`, also when eight replicas start in
the same moment. A label fingerprint is made from the files alone: a driver without a GPU, and
without the memory for the model, knows which labels a run will make.
"""

import fcntl
import json
import math
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch

from pixellm.answers import DecodeSettings
from pixellm.checkpoints import folder_sha256, load_checkpoint
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from pixellm.prompts import PROMPT_VERSION
from pixellm.weights import WeightFiles
from workers.errors import SettingsError, StorageError
from workers.labels.calibration import Calibration, read_calibration
from workers.labels.rows import Provenance
from workers.labels.schema import SCHEMA_VERSION
from workers.settings import SHIPPED_MODEL, LabelSettings
from workers.storage.objects import ObjectInfo, Store
from workers.storage.stores import open_store
from workers.storage.uris import scheme_of, shown, under
from workers.version import code_version

ANSWERS_VERSION = 1
"""Of the code between weights and labels. Raise it with a change after which the same weights give
other labels; everything that was labelled before is then labelled again."""
FETCHED_SUFFIXES = (".safetensors", ".json", ".model")
"""What a model folder needs; pickles are never fetched."""
FETCHERS = 4  # files at once; the weights of a 7B model are four files
COPY_BYTES = 4 * 2**20
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which labels a run makes: two runs of the same fingerprint make the same."""

    model_id: str
    """what people call it: the name of its folder, or its place in a bucket"""
    model_sha256: str
    adapter_sha256: str | None
    """none yet: adapters come with fine-tuning"""
    precision: str
    decode: DecodeSettings
    code_version: str
    calibration: Calibration | None = None
    """of `score`"""

    @property
    def decode_json(self) -> str:
        """The decode settings and the digest of the calibration, as the table holds them."""
        calibration = self.calibration.sha256 if self.calibration else None
        return json.dumps({**asdict(self.decode), "calibration": calibration}, sort_keys=True)

    @property
    def label_fingerprint(self) -> str:
        """Over all that decides a label besides its image and its instruction."""
        parts = {
            "weights": self.model_sha256,
            "adapter": self.adapter_sha256,
            "prompt": PROMPT_VERSION,
            "decode": self.decode_json,
            "precision": self.precision,
            "schema": SCHEMA_VERSION,
            "answers": ANSWERS_VERSION,
        }
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def provenance(self, run_id: str) -> Provenance:
        """What stands in every row of a run."""
        return Provenance(
            run_id=run_id,
            model_id=self.model_id,
            model_sha256=self.model_sha256,
            adapter_sha256=self.adapter_sha256,
            label_fingerprint=self.label_fingerprint,
            code_version=self.code_version,
            precision=self.precision,
            decode_json=self.decode_json,
            calibration=self.calibration,
        )


def identify_model(settings: LabelSettings) -> ModelIdentity:
    """Identifies the model from its files, without loading it, and reads the calibration.

    Raises:
        SettingsError: there is no such folder, or the calibration is none for this model.
        CheckpointError: it holds no weights that can be read.
        StorageError: it can't be fetched.
    """
    place = settings.model_place
    calibration = read_calibration(settings.calibration) if settings.calibration else None
    digest = _remembered_sha256(fetch_model(place, settings.model_cache), settings.model_cache)
    if calibration and calibration.model_sha256 not in (None, digest):
        raise SettingsError(_of_another(calibration, settings, digest))
    return ModelIdentity(
        model_id=place if scheme_of(place) else Path(place).name,
        model_sha256=digest,
        adapter_sha256=None,
        precision=settings.replica.precision,
        decode=settings.decode_settings,
        code_version=code_version(),
        calibration=calibration,
    )


def load_engine(settings: LabelSettings, identity: ModelIdentity) -> Engine:
    """Loads the model; it must be the one that the driver has identified.

    Raises:
        SettingsError: this machine has other weights under the same name.
        CheckpointError: the weights don't fit together.
    """
    checkpoint = load_checkpoint(
        fetch_model(settings.model_place, settings.model_cache),
        dtype=_DTYPES[settings.replica.precision],
        device="cuda" if settings.num_gpus_per_replica else "cpu",
    )
    if checkpoint.sha256 != identity.model_sha256:
        raise SettingsError(
            f"--model {shown(settings.model_place)}: the weights on this machine are not those of "
            "the driver. Put the same files on all machines, or give a model in a bucket."
        )
    most = settings.replica.batch_questions or math.inf
    share = settings.num_gpus_per_replica or 1.0
    limits = Limits.of_device(checkpoint.model.device, most, share)
    replay = settings.replica.replay_steps
    return Engine(checkpoint, settings.decode_settings, limits, replay=replay)


def fetch_model(place: str, cache: Path) -> Path:
    """The model folder on this machine; a model in a bucket is fetched when it isn't there yet.

    Args:
        place: a folder, or a prefix in a bucket.
        cache: folder for models of buckets.

    Raises:
        SettingsError: there is no such folder.
        StorageError: it can't be fetched.
    """
    if scheme_of(place):
        return _fetch(open_store(place), place, cache)
    if not Path(place).is_dir():
        raise SettingsError(_no_folder(place))
    return Path(place)


def _of_another(calibration: Calibration, settings: LabelSettings, digest: str) -> str:
    return (
        f"--calibration {shown(settings.calibration or '')} was fitted for the model"
        f" {calibration.model_sha256!r}, and --model {shown(settings.model_place)} is {digest!r},"
        " whose scores mean something else. Give a calibration of this model, or none: then"
        " `score` is the same as `score_mask`."
    )


def _no_folder(place: str) -> str:
    if place == SHIPPED_MODEL:
        return f"the model that comes with the project is missing from {place!r}; give --model"
    as_typed = under(place, f"{Path.cwd()}") or place
    message = f"--model {as_typed!r}: there is no such folder."
    if _HUB_ID.fullmatch(as_typed):
        message += " Model hubs are never asked: download the weights and give their folder."
    return message


def _fetch(store: Store, place: str, cache: Path) -> Path:
    """Fetches a model folder under a name made of its content; whole or not at all."""
    files = [info for info in store.list(place) if _is_needed(info, place)]
    if not any(info.uri.endswith(".safetensors") for info in files):
        raise SettingsError(f"--model {shown(place)}: there is no *.safetensors file")
    content = "\n".join(f"{info.uri} {info.etag} {info.size}" for info in files)
    folder = cache / "models" / sha256(content.encode()).hexdigest()[:20]
    with _locked(folder.with_suffix(".lock")):
        _remove_halves(folder)
        if not folder.is_dir():
            aside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
            try:
                _copy_all(store, files, aside)
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return folder


def _remove_halves(folder: Path) -> None:
    """What a killed process had fetched; under the lock nobody else is at work on it."""
    for half in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(half, ignore_errors=True)


def _is_needed(info: ObjectInfo, place: str) -> bool:
    name = under(info.uri, place)
    return name is not None and "/" not in name and name.endswith(FETCHED_SUFFIXES)


def _copy_all(store: Store, files: Sequence[ObjectInfo], folder: Path) -> None:
    folder.mkdir(parents=True)

    def copy(info: ObjectInfo) -> None:
        target = folder / info.uri.rpartition("/")[2]
        with store.open(info.uri) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, COPY_BYTES)
        if target.stat().st_size != info.size:
            raise StorageError(f"{shown(info.uri)} changed while it was fetched; start again")

    with ThreadPoolExecutor(FETCHERS) as pool:
        list(pool.map(copy, files))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this machine at a time; the kernel frees the lock of one that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remembered_sha256(folder: Path, cache: Path) -> str:
    """The digest of a folder; files of 13 GB are read only when their size or time has changed."""
    weights = WeightFiles(folder)
    seen = [
        [path.name, path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(folder.iterdir())
        if path.is_file()
    ]
    note = cache / "sha256" / f"{sha256(str(folder.resolve()).encode()).hexdigest()[:20]}.json"
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        if noted["files"] == seen:
            return str(noted["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no note, or not ours: read the files
    digest = folder_sha256([weights])
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
