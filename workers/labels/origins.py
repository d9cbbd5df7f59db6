"""What a row keeps of the file that its label was imported from, so that it can be written back.

It stands in `meta_json` under the key `source`. Rows that were not imported have none of it, and
then nothing is known: everything in here has a value for that.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

from workers.labels.schema import LabelRow

_KEY = "source"
SEG = "{seg}"
"""How sources mark a target in an answer; tables mark it as `pixellm.answers.SEG_MARK`."""


@dataclass(frozen=True, slots=True)
class RefOrigin:
    """One expression of a RefCOCO file, and the reference that it belongs to."""

    ref: int
    """`ref_id`"""
    sentence: int
    """`sent_id`; the place in the list of sentences where the file gives none"""
    text: str
    """`sent`, as it was written"""
    split: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in its source a question stood, and what of it the columns of a row don't hold."""

    place: int = 0
    """of the question in its entry, from 0"""
    image: str = ""
    """the image as the source names it"""
    image_key: str = ""
    """by which key it names it: `file_name`, `coco_url` or `image`"""
    question: str | None = None
    """as it was written, where `instruction` is not the same"""
    answer: str | None = None
    """likewise, where `answer_text` is not what the form itself holds"""
    composed: bool = False
    """the source has no text for the answer: `answer_text` was composed"""
    names: tuple[str | None, ...] = ()
    """of the targets, where they are not their phrases"""
    category_id: int | None = None
    """of the category that was asked for, whether there is one of it or not"""
    refs: tuple[RefOrigin, ...] = ()
    """the expressions that were asked for, in order"""

    def to_json(self) -> str:
        """For `meta_json`; what says nothing is left out."""
        said = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        refs = {"refs": [asdict(each) for each in self.refs]} if self.refs else {}
        return json.dumps({_KEY: {**said, **refs}}, separators=(",", ":"))

    @classmethod
    def of(cls, row: LabelRow) -> Self:
        """That of a row; a `source` in the input of a labelling run is a key of the user's own."""
        return cls.from_json(row.meta_json) if row.origin == "human" else cls()

    @classmethod
    def from_json(cls, meta_json: str | None) -> Self:
        """Read from `meta_json`; where that has none, an origin that says nothing."""
        meta = json.loads(meta_json) if meta_json else {}
        said = meta.get(_KEY) if isinstance(meta, Mapping) else None
        if not isinstance(said, Mapping):
            return cls()
        try:
            refs = tuple(RefOrigin(**each) for each in said.get("refs", ()))
            names = tuple(said.get("names", ()))
            return cls(**{**said, "refs": refs, "names": names})
        except TypeError:  # a key of the user's own that has this name
            return cls()
