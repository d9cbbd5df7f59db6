"""The tokens beside the pieces of a vocabulary: their ids, and the white space that touches them.

They stand in JSON files beside `tokenizer.model`: the codebook's `[SEG0]`, `[SEG1]`, ..., and the
two around an image. Each is cut out of a text before the rest of it is encoded.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pixellm.errors import CheckpointError

IMAGE_START, IMAGE_END = "<im_start>", "<im_end>"
ADDED_FILE = "added_tokens.json"
MAP_FILE, CONFIG_FILE = "special_tokens_map.json", "tokenizer_config.json"

_CORE_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
CORE_IDS = {token: index for index, token in enumerate(_CORE_TOKENS.values())}
"""Of the tokens that LLaMA's own vocabulary has, beside its pieces."""
_SEG_TOKEN = re.compile(r"\[SEG(\d*)\]")


@dataclass(frozen=True, slots=True)
class AddedTokens:
    """What a tokenizer knows beside its pieces."""

    ids: dict[str, int]
    """of each token that was added"""
    seg_ids: tuple[int, ...]
    """of the codebook's, in order"""
    strips: dict[str, tuple[bool, bool]]
    """of each of them and of the three of LLaMA's own: whether white space before and after it is
    dropped"""


def read_added_tokens(files: Mapping[str, bytes], source: str, taken: int) -> AddedTokens:
    """Reads the JSON files of a tokenizer.

    Args:
        files: name -> content; only `added_tokens.json` must be there.
        source: where they came from, for messages.
        taken: ids below this are those of pieces.

    Raises:
        CheckpointError: a file is missing, unreadable, or contradicts another one.
    """
    ids = _load_added(files, source, taken)
    seg_ids = _find_seg_ids(ids, f"{source}/{ADDED_FILE}")
    return AddedTokens(ids, seg_ids, _load_strips(files, source, CORE_IDS | ids))


def write_added_tokens(ids: Mapping[str, int]) -> dict[str, bytes]:
    """The same files, name -> content, in the form that transformers reads."""
    special = {
        key: {"content": token, "lstrip": False, "normalized": True, "rstrip": False}
        for key, token in _CORE_TOKENS.items()
    }
    config = {
        **{key: {"__type": "AddedToken", **token} for key, token in special.items()},
        "legacy": True,
        "tokenizer_class": "LlamaTokenizer",
    }
    contents = {ADDED_FILE: ids, MAP_FILE: {**special, "pad_token": "<unk>"}, CONFIG_FILE: config}
    return {name: json.dumps(value, indent=2).encode() for name, value in contents.items()}


def _read_json(files: Mapping[str, bytes], source: str, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(files.get(name, b"{}")))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{source}/{name} is no JSON object: {error}") from error


def _load_added(files: Mapping[str, bytes], source: str, taken: int) -> dict[str, int]:
    if ADDED_FILE not in files:
        raise CheckpointError(f"{source}/{ADDED_FILE} is missing: the ids of [SEG...] stand there")
    listed = _read_json(files, source, ADDED_FILE)
    # Some checkpoints list <unk>, <s>, </s> as well.
    added = {token: index for token, index in listed.items() if CORE_IDS.get(token) != index}
    for token, index in added.items():
        if not token or type(index) is not int or index < taken:
            raise CheckpointError(
                f"{source}/{ADDED_FILE} gives {token!r} the id {index!r}; ids start at {taken} here"
            )
    if len(set(added.values())) < len(added):
        raise CheckpointError(f"{source}/{ADDED_FILE} gives two tokens the same id")
    if missing := {IMAGE_START, IMAGE_END} - added.keys():
        raise CheckpointError(f"{source}/{ADDED_FILE} lacks {sorted(missing)!r}")
    return added


def _find_seg_ids(added: Mapping[str, int], file: str) -> tuple[int, ...]:
    found = sorted(token for token in added if _SEG_TOKEN.fullmatch(token))
    wanted = ["[SEG]"] if found == ["[SEG]"] else [f"[SEG{at}]" for at in range(len(found))]
    if not found or found != sorted(wanted):
        raise CheckpointError(
            f"{file} has {found!r}; a codebook is [SEG], or [SEG0], [SEG1], ... without a gap"
        )
    return tuple(added[token] for token in wanted)


def _load_strips(
    files: Mapping[str, bytes], source: str, cuts: Mapping[str, int]
) -> dict[str, tuple[bool, bool]]:
    """For every token, whether white space before and after it is dropped.

    It is, unless the special tokens map describes the token in full: then its flags decide.
    """
    if _read_json(files, source, CONFIG_FILE).get("legacy") is False:
        raise CheckpointError(
            f'{source}/{CONFIG_FILE}: PixelLM needs "legacy": true, this is false'
        )
    entries = _read_json(files, source, MAP_FILE)
    strips = dict.fromkeys(cuts, (True, True))
    for key, token in _CORE_TOKENS.items():
        entry = entries.get(key, {"content": token})
        name = entry.get("content") if isinstance(entry, dict) else entry
        if name != token:
            raise CheckpointError(f"{source}/{MAP_FILE}: {key} is {name!r}; LLaMA's is {token!r}")
        if isinstance(entry, dict):
            strips[token] = (bool(entry.get("lstrip")), bool(entry.get("rstrip")))
    return strips
