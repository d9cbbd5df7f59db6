"""Checks of a model: is it safetensors, whole, of sizes that fit together, and under what licence.

Nothing large is fetched: a safetensors file begins with the names, shapes and places of its
tensors, so that its first bytes and its length tell whether it is whole.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from pixellm.checkpoints import match_weights, read_config, sketch_model
from pixellm.config import clip_from_json
from pixellm.config_values import read_json
from pixellm.errors import CheckpointError, PixelLMError
from pixellm.weights import INDEX_FILE
from workers.doctor.findings import Finding, failed_by, failure, ok, warning
from workers.doctor.ways_out import READ, way_out
from workers.errors import LineError
from workers.model_folders import FETCHED_SUFFIXES, say_no_folder
from workers.storage.objects import ObjectInfo, Store
from workers.storage.uris import join_uri, scheme_of, shown, under

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
WEIGHTS = ".safetensors"
SMALL_BYTES = 16 * 2**20
"""Of the largest small file: a tokenizer has half a MiB."""
HEADER_BYTES = 100_000_000
"""Of the longest header that safetensors itself reads."""
LICENCE_CHARS = 120
CONVERT = "convert it once: python -m pixellm.convert --model FOLDER --clip CLIP --output NEW"
_LICENCE_LINE = re.compile(r"^\s*licen[cs]e(?:_name)?\s*:\s*(\S.*)$", re.I | re.M)
_LICENCE_FILES = re.compile(r"(licen[cs]e|copying|notice)(\..*)?", re.I)

_NO_HEADER = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)

Files = Mapping[str, ObjectInfo]
"""What lies in a model folder, by name."""


def check_weights(store: Store, place: str) -> Iterator[Finding]:
    """Whether a model can be loaded, as far as its small files and headers tell."""
    try:
        listed = {under(info.uri, place) or "": info for info in store.list(place)}
        files = {name: info for name, info in listed.items() if "/" not in name}
        if not files:
            yield _nothing_there(place)
            return
        yield _check_form(files, place)
        if any(name.endswith(WEIGHTS) for name in files):
            named = _read_index(store, files)
            headers = {
                name: read_header(store, info)
                for name, info in files.items()
                if name.endswith(WEIGHTS) and (named is None or name in named)
            }
            yield _check_whole(headers, named)
            yield _check_sizes(store, files, headers)
            yield _check_checksums(store, files, place)
        yield _check_licence(store, files, place)
    except LineError as error:
        yield failed_by("weights.read", error, way_out(error, place, "--model", READ))


def _nothing_there(place: str) -> Finding:
    name, whole = "weights.form", "a folder with config.json and *.safetensors"
    if scheme_of(place):
        put = f"put {whole} there: aws s3 cp --recursive FOLDER {place}"
        return failure(name, f"nothing lies under {shown(place)}", f"correct --model, or {put}")
    if not Path(place).is_dir():
        to_do = f"correct --model: {whole}, or s3://bucket/prefix"
        return failure(name, say_no_folder(place), to_do)
    return failure(name, f"nothing lies in {shown(place)}", f"correct --model: {whole}")


@dataclass(frozen=True, slots=True)
class Header:
    """The beginning of a safetensors file."""

    shapes: Mapping[str, tuple[int, ...]]
    bytes_due: int
    """of the whole file, as its header says"""
    bytes_there: int
    why_not: str = ""
    """it can't be read"""


def read_header(store: Store, info: ObjectInfo) -> Header:
    """Reads the beginning of a file: eight bytes of length, and a JSON object."""
    length = int.from_bytes(store.get(info.uri, 0, 8), "little")
    if not 0 < length <= HEADER_BYTES:
        return Header({}, 0, info.size, "it doesn't begin as a safetensors file does")
    try:
        values: dict[str, Any] = json.loads(store.get(info.uri, 8, length))
        tensors = {name: value for name, value in values.items() if name != "__metadata__"}
        shapes = {name: tuple(map(int, value["shape"])) for name, value in tensors.items()}
        end = max((int(value["data_offsets"][1]) for value in tensors.values()), default=0)
    except _NO_HEADER as error:
        return Header({}, 0, info.size, f"its header can't be read ({error})")
    return Header(shapes, 8 + length + end, info.size)


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The shapes of a model as a source of weights, without their values."""

    folder: Path
    shapes: Mapping[str, tuple[int, ...]]

    def keys(self) -> set[str]:
        return set(self.shapes)

    def shape(self, key: str) -> tuple[int, ...]:
        if key not in self.shapes:
            raise CheckpointError(f"the weight {key!r} is missing")
        return self.shapes[key]

    def get(self, key: str) -> Tensor:
        raise CheckpointError(f"only the shape of {key!r} was read, and not its values")


def _check_form(files: Files, place: str) -> Finding:
    name = "weights.form"
    pickles = sorted(each for each in files if each.endswith(PICKLES))
    weights = [info for each, info in files.items() if each.endswith(WEIGHTS)]
    if not weights:
        what = f"only pickled weights ({', '.join(pickles[:3])})" if pickles else "no *.safetensors"
        to_do = CONVERT if pickles else "give the folder that holds config.json and *.safetensors"
        return failure(name, f"{shown(place)} holds {what}", to_do)
    total = sum(info.size for info in weights) / 2**30
    seen = f"{len(weights)} *.safetensors, {total:,.2f} GiB"
    if pickles:
        return warning(
            name,
            f"{seen}; beside them pickles ({', '.join(pickles[:3])}), which are never loaded",
            "remove the pickles: other programs may load them",
        )
    return ok(name, seen)


def _read_index(store: Store, files: Files) -> frozenset[str] | None:
    """The files that are loaded; none where the index is of no use, None where there is none."""
    if INDEX_FILE not in files:
        return None
    try:
        shards = json.loads(store.get(files[INDEX_FILE].uri))["weight_map"].values()
    except _NO_HEADER:
        return frozenset()
    return frozenset(Path(str(each)).name for each in shards)  # as they are loaded: names only


def _check_whole(headers: Mapping[str, Header], named: frozenset[str] | None) -> Finding:
    name = "weights.whole"
    if named is not None and not named:
        to_do = "copy it anew, or remove it where all weights lie in files beside it"
        return failure(name, f"{INDEX_FILE} has no `weight_map` from weights to files", to_do)
    if missing := sorted((named or frozenset()) - headers.keys()):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        seen = f"{INDEX_FILE} names what is not there: {', '.join(missing[:3])}{more}"
        return failure(name, seen, "put all files of the model there")
    for file, header in headers.items():
        if header.why_not:
            return failure(name, f"{file}: {header.why_not}", "download it again")
        if header.bytes_due != header.bytes_there:
            seen = f"{file} has {header.bytes_there:,} bytes, its header says {header.bytes_due:,}"
            return failure(name, seen, "it was cut off or changed: download it again")
    all_there = "" if named is None else f", and all that {INDEX_FILE} names are there"
    return ok(name, f"every file is as long as its header says{all_there}")


def _check_sizes(store: Store, files: Files, headers: Mapping[str, Header]) -> Finding:
    name = "weights.sizes"
    shapes = {key: shape for each in headers.values() for key, shape in each.shapes.items()}
    with TemporaryDirectory() as folder:
        for each, info in files.items():
            fits = each.endswith(FETCHED_SUFFIXES) and info.size <= SMALL_BYTES
            if fits and not each.endswith(WEIGHTS):
                (Path(folder) / each).write_bytes(store.get(info.uri))
        try:
            clip = read_json(Path(folder) / "config.json").get("vision_config")
            if not isinstance(clip, dict):
                return failure(name, "config.json holds no vision tower", CONVERT)
            source = _Shapes(Path(folder), shapes)
            config = read_config(Path(folder), source, clip_from_json(clip, "config.json"))
            match_weights(sketch_model(config), [source])
        except PixelLMError as error:
            seen = f"{error}".replace(f"{folder}/", "").replace(folder, "the folder")
            return failure(name, seen, "take all files of one model, none of another")
    width, depth = config.llama["hidden_size"], config.llama["num_hidden_layers"]
    return ok(
        name,
        f"a language model of {width} x {depth}, images of {config.image_side} pixels,"
        f" {config.scales} scales of {config.tokens_per_scale} tokens",
    )


def _check_checksums(store: Store, files: Files, place: str) -> Finding:
    """What is fetched is compared with what the store says; where it says nothing, by size only."""
    name = "weights.checksum"
    if not scheme_of(place):
        return ok(name, "they lie on this machine; each run makes their digest")
    unsaid = sorted(
        each
        for each, info in files.items()
        if each.endswith(FETCHED_SUFFIXES) and store.checksum(info) is None
    )
    if not unsaid:
        return ok(name, "the store says one of every file; what is fetched is compared with it")
    return warning(
        name,
        f"the store says none that can be compared of {', '.join(unsaid[:3])}"
        f"{' and others' * (len(unsaid) > 3)}: what is fetched is only known by its size",
        "put them there again with one: aws s3 cp --checksum-algorithm SHA256 ...",
    )


def _check_licence(store: Store, files: Files, place: str) -> Finding:
    """What the folder says of its licence: the doctor reads it out, and judges nothing."""
    name = "weights.licence"
    said = []
    if "README.md" in files and files["README.md"].size <= SMALL_BYTES:
        page = store.get(join_uri(place, "README.md")).decode("utf-8", "replace")
        said += [f"README.md says {found!r}" for found in _LICENCE_LINE.findall(page)[:1]]
    for each in sorted(files):
        if _LICENCE_FILES.fullmatch(each):
            text = store.get(files[each].uri, 0, SMALL_BYTES).decode("utf-8", "replace")
            line = next((line.strip() for line in text.splitlines() if line.strip()), "")
            said.append(f"{each} begins {line[:LICENCE_CHARS]!r}")
    if said:
        return ok(name, "; ".join(said))
    return warning(
        name,
        "the folder says nothing of a licence",
        "find out before labels are used: PixelLM-7B descends from the first LLaMA (research use),"
        " 13B from LLaMA 2 (its community licence); then put a LICENSE beside the weights",
    )
