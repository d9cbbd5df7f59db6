"""Text to ids and back: sentencepiece pieces plus the added tokens of the segmentation codebook.

PixelLM was trained with the slow LLaMA tokenizer of transformers 4.31 in its "legacy" mode. What
matters of it is small: text is cut at the added tokens, white space that touches one is dropped,
and every piece that remains is encoded by itself, with sentencepiece's dummy prefix. So
`[SEG5].` becomes `[SEG5]`, `▁.`, and the line break after `<im_end>` disappears.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, groupby
from pathlib import Path

import sentencepiece

from pixellm.added_tokens import (
    ADDED_FILE,
    CONFIG_FILE,
    CORE_IDS,
    IMAGE_END,
    IMAGE_START,
    MAP_FILE,
    read_added_tokens,
    write_added_tokens,
)
from pixellm.errors import CheckpointError, ConfigError, InstructionError
from pixellm.phrases import Span

IMAGE_TOKEN = "<image>"
"""Where the image stands in a prompt. It is no token: the model puts image vectors there."""
IMAGE_TOKEN_INDEX = -200
"""What stands for the image among token ids."""

MODEL_FILE = "tokenizer.model"
MIN_BYTE_FALLBACK_VOCABULARY = 512
"""Pieces. The 256 byte pieces would take most of a vocabulary that is smaller than this."""

_CLOSING = tuple(".,;:!?)]")  # written without a space before them


class Tokenizer:
    """The tokenizer of one checkpoint. It is safe to share between threads.

    Args:
        files: Name -> content; the JSON files other than `added_tokens.json` may be missing.
        source: Where the files came from, for error messages.

    Raises:
        CheckpointError: A file is missing, unreadable, or contradicts another one.
    """

    def __init__(self, files: Mapping[str, bytes], source: str = "tokenizer") -> None:
        self._files = dict(files)
        self._pieces = _load_pieces(files, source)
        tokens = read_added_tokens(files, source, self._pieces.vocab_size())
        self.added, self.seg_ids, self._strips = tokens.ids, tokens.seg_ids, tokens.strips
        self.pad_id, self.bos_id, self.eos_id = 0, 1, 2  # PixelLM pads with <unk>
        self.vocab_size: int = max(self._pieces.vocab_size(), *(i + 1 for i in self.added.values()))
        self._cuts: dict[str, int] = CORE_IDS | self.added
        self._names = {index: token for token, index in self.added.items()}
        self._names[IMAGE_TOKEN_INDEX] = IMAGE_TOKEN
        longest_first = sorted(self._cuts, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    @classmethod
    def from_folder(cls, path: str | Path) -> "Tokenizer":
        """Read the tokenizer files of a checkpoint folder.

        Raises:
            CheckpointError: A file is missing, unreadable, or contradicts another one.
        """
        names = (MODEL_FILE, ADDED_FILE, MAP_FILE, CONFIG_FILE)
        found = {name: Path(path) / name for name in names if (Path(path) / name).is_file()}
        return cls({name: file.read_bytes() for name, file in found.items()}, str(path))

    def save(self, path: str | Path) -> None:
        """Write the files that this tokenizer was made from, byte for byte."""
        Path(path).mkdir(parents=True, exist_ok=True)
        for name, data in self._files.items():
            (Path(path) / name).write_bytes(data)

    @property
    def seg_text(self) -> str:
        """One target as training texts write it: `[SEG0] [SEG1] ...`, or `[SEG]`."""
        return " ".join(self._names[index] for index in self.seg_ids)

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Turn text without an image into ids.

        Args:
            text: May hold added tokens and `<s>`, `</s>`, `<unk>`: each becomes its own id.
            bos: Whether the begin-of-text id comes first.
        """
        parts = self._cut.split(text)  # text, token, text, token, ..., text
        ids = [self.bos_id] if bos else []
        for at, part in enumerate(parts):
            if at % 2:
                ids.append(self._cuts[part])
                continue
            if at > 0 and self._strips[parts[at - 1]][1]:
                part = part.lstrip()
            if at + 1 < len(parts) and self._strips[parts[at + 1]][0]:
                part = part.rstrip()
            if part:
                ids.extend(self._pieces.encode(part))
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Turn a prompt with one `<image>` into ids, `IMAGE_TOKEN_INDEX` at the image.

        Raises:
            InstructionError: The prompt has no image, or more than one.
        """
        before, *after = text.split(IMAGE_TOKEN)
        if len(after) != 1:
            raise InstructionError(
                f"a prompt needs one {IMAGE_TOKEN!r}, not {len(after)}: {text!r}"
            )
        return [*self.encode(before), IMAGE_TOKEN_INDEX, *self.encode(after[0], bos=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into readable text.

        `<s>`, `</s>` and padding are left out, and so are ids beyond the vocabulary: a model's
        head may be padded to a round number.
        """
        return self.decode_with_places(list(ids))[0]

    def decode_with_places(
        self, ids: Sequence[int], instead: Mapping[int, str] | None = None
    ) -> tuple[str, tuple[Span, ...]]:
        """Turn ids into readable text, and say where in it each of them stands.

        Args:
            ids: As for `decode`.
            instead: Position -> what is written for the id there; "" for nothing.

        Returns:
            The text, and for every id the span of the characters that it is or has a part in, in
            code points. The bytes of one character share its span; an id that is left out, and a
            space that is, have an empty one.
        """
        written = {at: self._names[each] for at, each in enumerate(ids) if each in self._names}
        written |= instead or {}
        shown = [at for at, each in enumerate(ids) if written.get(at, self._is_piece(each))]
        text, places = "", [(0, 0)] * len(ids)
        # one word that is written at a time, and between them runs of pieces
        for word, run in groupby(shown, key=lambda at: at if at in written else None):
            where = list(run)
            if word is None:
                part, spans = self._decode_run([ids[at] for at in where])
            else:
                part, spans = written[word], [(0, len(written[word]))]
            text = glue(text, part)
            begin = len(text) - len(part)
            for at, (start, stop) in zip(where, spans, strict=True):
                places[at] = (begin + start, begin + stop)
        return text, tuple(places)

    def _is_piece(self, index: int) -> bool:
        return bool(self.eos_id < index < self._pieces.vocab_size())

    def _decode_run(self, ids: Sequence[int]) -> tuple[str, list[Span]]:
        """Pieces as text without white space around it, and where each of them stands in it."""
        surfaces = [each.surface for each in self._pieces.decode(ids, return_type="proto").pieces]
        ends = list(accumulate(map(len, surfaces)))
        spans = [(end - len(each), end) for each, end in zip(surfaces, ends, strict=True)]
        for at in range(len(ids) - 2, -1, -1):  # a character is given to the last of its bytes
            if not surfaces[at] and self._pieces.is_byte(ids[at]):
                spans[at] = spans[at + 1]
        whole = "".join(surfaces)
        text, margin = whole.strip(), len(whole) - len(whole.lstrip())
        return text, [
            (min(max(start - margin, 0), len(text)), min(max(stop - margin, 0), len(text)))
            for start, stop in spans
        ]


def glue(text: str, part: str) -> str:
    """Append `part` to `text`, after a space unless it begins with closing punctuation."""
    return text + part if not text or not part or part.startswith(_CLOSING) else f"{text} {part}"


def train_tokenizer(corpus: Iterable[str], vocab_size: int, groups: int) -> Tokenizer:
    """Train a small tokenizer of LLaMA's kind; the same corpus gives the same bytes.

    Args:
        corpus: Texts without added tokens.
        vocab_size: Sentencepiece pieces, before the added tokens. Unknown characters fall back to
            bytes from `MIN_BYTE_FALLBACK_VOCABULARY` pieces on, and become `<unk>` below it.
        groups: How many codebook tokens follow, scales times tokens per scale.

    Raises:
        ConfigError: The corpus can't fill a vocabulary of this size, or needs a larger one.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=vocab_size >= MIN_BYTE_FALLBACK_VOCABULARY,
            character_coverage=1.0,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            shuffle_input_sentence=False,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:  # its message says which size would do
        raise ConfigError(f"can't train a vocabulary of {vocab_size!r} pieces: {error}") from error
    segs = ["[SEG]"] if groups == 1 else [f"[SEG{index}]" for index in range(groups)]
    added = {token: vocab_size + at for at, token in enumerate([*segs, IMAGE_START, IMAGE_END])}
    return Tokenizer({MODEL_FILE: model.getvalue(), **write_added_tokens(added)})


def _load_pieces(files: Mapping[str, bytes], source: str) -> sentencepiece.SentencePieceProcessor:
    if MODEL_FILE not in files:
        raise CheckpointError(f"{source}/{MODEL_FILE} is missing: a checkpoint needs its tokenizer")
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=files[MODEL_FILE])
    except RuntimeError as error:
        raise CheckpointError(f"{source}/{MODEL_FILE} is no sentencepiece model") from error
    found = (pieces.unk_id(), pieces.bos_id(), pieces.eos_id())
    if found != (0, 1, 2):
        raise CheckpointError(f"{source}/{MODEL_FILE}: unk, bos, eos are {found!r}, not 0, 1, 2")
    return pieces
