"""The forms that labels can be imported from.

A new form is a module with a function that reads it, and a line in `FORMATS`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

from workers.errors import ObjectMissing
from workers.imports.coco import read_coco
from workers.imports.gold import GoldRecord
from workers.imports.muse import read_muse
from workers.imports.reasonseg import list_files, read_reasonseg
from workers.imports.refcoco import find_instances, read_refcoco
from workers.imports.referring import read_referring
from workers.imports.source import Source, digest_file


@dataclass(frozen=True, slots=True)
class Format:
    """How one form is read, and by what its input is known."""

    about: str
    """what an input of it is, for people who know its name"""
    read: Callable[[Source, Counter[str]], Iterator[GoldRecord]]
    """in an order that is always the same; what is left out on purpose is counted by reason"""
    digest: Callable[[Source], str]
    """of all that is read but the images, 64 hex digits"""
    takes: frozenset[str]
    """the settings that mean something to it; flags for others are refused"""
    is_folder: bool = False
    """its input is a folder, and not a file"""


def _digest_input(source: Source) -> str:
    return digest_file(source.store, source.input)


def _digest_refs(source: Source) -> str:
    """Of both files; the second is only there where the first doesn't hold it all."""
    refs, instances = digest_file(source.store, source.input), find_instances(source)
    try:
        source.store.stat(instances)
    except ObjectMissing:
        return refs
    return sha256(f"{refs}\n{digest_file(source.store, instances)}".encode()).hexdigest()


def _digest_folder(source: Source) -> str:
    """Of the names and versions of its files, as the listing has them: none is read for it."""
    lines = (f"{info.uri}\n{info.size}\n{info.etag}\n" for info in list_files(source))
    return sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


FORMATS: Mapping[str, Format] = {
    "muse": Format("MUSE and MMR", read_muse, _digest_input, frozenset({"sentence_form"})),
    "referring": Format(
        "a list of images with expressions and masks",
        read_referring,
        _digest_input,
        frozenset({"sentence_form"}),
    ),
    "refcoco": Format(
        "RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO as JSON",
        read_refcoco,
        _digest_refs,
        frozenset({"instances", "split", "referring", "name_form"}),
    ),
    "reasonseg": Format(
        "a folder with a JSON beside each image",
        read_reasonseg,
        _digest_folder,
        frozenset({"sentence_form", "name_form"}),
        is_folder=True,
    ),
    "coco": Format(
        "instances", read_coco, _digest_input, frozenset({"absent", "mask_of", "name_form"})
    ),
}
"""By the name that `--from` takes."""
