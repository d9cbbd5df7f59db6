"""The model of a run: what identifies it.

A label fingerprint is made from the files alone: a driver without a GPU, and without the memory for
the model or its code, knows which labels a run will make. `workers.engines` loads it.
"""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from pixellm.answers import DecodeSettings
from pixellm.prompts import PROMPT_VERSION
from workers.errors import SettingsError
from workers.labels.calibration import Calibration, read_calibration
from workers.labels.rows import Provenance
from workers.labels.schema import SCHEMA_VERSION
from workers.model_folders import digest_adapter, fetch_adapter, fetch_model, model_sha256
from workers.settings import LabelSettings
from workers.storage.uris import scheme_of, shown
from workers.training.record import read_trained_from
from workers.version import code_version

ANSWERS_VERSION = 2
"""Of the code between weights and labels. Raise it with a change after which the same weights give
other labels; everything that was labelled before is then labelled again."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which labels a run makes: two runs of the same fingerprint make the same."""

    model_id: str
    """what people call it: the name of its folder, or its place in a bucket"""
    model_sha256: str
    adapter_sha256: str | None
    """None without an adapter"""
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
    """Identifies model and adapter from their files, without loading them; reads the calibration.

    Raises:
        SettingsError: there is no such folder, or the adapter or the calibration is of another
            model.
        CheckpointError: it holds no weights that can be read.
        StorageError: it can't be fetched.
    """
    place = settings.model_place
    calibration = read_calibration(settings.calibration) if settings.calibration else None
    digest = model_sha256(fetch_own_model(settings), settings.model_cache)
    adapter = _identify_adapter(settings, digest) if settings.adapter else None
    if calibration and not calibration.fits(digest, adapter):
        raise SettingsError(_of_another(calibration, settings, digest, adapter))
    return ModelIdentity(
        model_id=place if scheme_of(place) else Path(place).name,
        model_sha256=digest,
        adapter_sha256=adapter,
        precision=settings.replica.precision,
        decode=settings.decode_settings,
        code_version=code_version(),
        calibration=calibration,
    )


def fetch_own_model(settings: LabelSettings) -> Path:
    """The model of a run on this machine; see `workers.model_folders.fetch_model`."""
    return fetch_model(settings.model_place, settings.model_cache, settings.model_cache_gib)


def fetch_own_adapter(place: str, settings: LabelSettings) -> Path:
    """An adapter of a run on this machine; see `workers.model_folders.fetch_adapter`."""
    return fetch_adapter(place, settings.model_cache, settings.model_cache_gib)


def _identify_adapter(settings: LabelSettings, model: str) -> str:
    """The digest of the adapter, which was trained from the model of that digest."""
    place = settings.adapter or ""
    folder = fetch_own_adapter(place, settings)
    base = read_trained_from(folder)
    if base not in (None, model):
        raise SettingsError(
            f"--adapter {shown(place)} was trained from the model {base!r}, and --model"
            f" {shown(settings.model_place)} is {model!r}: give the model that it was trained from"
            " (README.md in the adapter's folder names it)"
        )
    return digest_adapter(folder, settings.model_cache)


def _of_another(
    calibration: Calibration, settings: LabelSettings, digest: str, adapter: str | None
) -> str:
    fitted = _named(f"{calibration.model_sha256}", calibration.adapter_sha256)
    return (
        f"--calibration {shown(settings.calibration or '')} was fitted for the model {fitted}, and"
        f" --model {shown(settings.model_place)} is {_named(digest, adapter)}, whose scores mean"
        " something else. Give a calibration of this model, or none: then `score` is the same as"
        " `score_mask`."
    )


def _named(model: str, adapter: str | None) -> str:
    return f"{model!r} with the adapter {adapter!r}" if adapter else f"{model!r}"
