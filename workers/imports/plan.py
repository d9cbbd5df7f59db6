"""An import before its work begins: by what it is known, and whether it may begin.

A run id is made of all that decides the table: the source without its images, and the settings. So
a second start of the same command finds what the first has committed. Images that are replaced, or
were missing, change none of it; `--refresh` makes a new run, which looks at every one.
"""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256

from workers.errors import SettingsError
from workers.imports.formats import FORMATS
from workers.imports.settings import ConvertSettings
from workers.imports.source import Source
from workers.labels.commits import Ledger, now
from workers.labels.manifests import manifests
from workers.labels.rows import Provenance
from workers.labels.run_ids import choose_run_id
from workers.labels.schema import SCHEMA_VERSION
from workers.storage.stores import Anywhere
from workers.storage.uris import shown
from workers.version import code_version

IMPORTS_VERSION = 4
"""Of the code between source and labels. Raise it with a change after which the same source gives
other rows; everything that was imported before is then imported again."""
_RUN_PREFIX = "convert-"


@dataclass(frozen=True, slots=True)
class Conversion:
    """An import before its work begins."""

    settings: ConvertSettings
    source: Source
    provenance: Provenance
    ledger: Ledger
    planned_at: str
    """when the source was about to be looked at: UTC, ISO 8601"""
    request: str
    """digest of the settings that decide the table"""
    digest: str
    """of the source, without its images"""


def plan_conversion(settings: ConvertSettings) -> Conversion:
    """Finds out what there is to do, and writes nothing.

    Raises:
        PlanError: there is no such input.
        SettingsError: the output holds labels that a model made.
        StorageError: a store failed.
    """
    planned_at, source = now(), settings.source
    _check_output(settings.output)
    digest = FORMATS[settings.form].digest(source)
    decisions = {
        "version": IMPORTS_VERSION,
        "schema": SCHEMA_VERSION,
        "form": settings.form,
        "source": {name: value for name, value in asdict(source).items() if name != "input"},
        "limits": asdict(settings.picture_limits),
    }
    fingerprint = _digest(digest, json.dumps(decisions, sort_keys=True))
    request = _digest(json.dumps([decisions, settings.records_per_part], sort_keys=True))
    provenance = Provenance(
        run_id=choose_run_id(
            Anywhere(),
            settings.output,
            (settings.input, fingerprint, request),
            _run_id,
            refresh=settings.refresh,
        ),
        model_id="",
        model_sha256="",
        adapter_sha256=None,
        label_fingerprint=fingerprint,
        code_version=code_version(),
        precision="",
        decode_json=json.dumps(
            {"imported_from": settings.form, "input": settings.input, "input_digest": digest}
        ),
        origin="human",
    )
    ledger = Ledger(Anywhere(), settings.output, provenance.run_id)
    return Conversion(settings, source, provenance, ledger, planned_at, request, digest)


def _check_output(output: str) -> None:
    """The newest finished run is what readers read: imported labels would hide those of a model."""
    for each in manifests(Anywhere(), output):
        if not each.run_id.startswith(_RUN_PREFIX):
            raise SettingsError(
                f"--output {shown(output)} holds labels that a model made (the run"
                f" {each.run_id!r}); imported ones would take their place. Give another one"
            )


def _run_id(*parts_of_id: str) -> str:
    return f"{_RUN_PREFIX}{_digest(*parts_of_id)[:16]}"


def _digest(*parts: str) -> str:
    return sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
