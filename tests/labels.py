"""Rows as a run makes them, from real photos with the masks that people drew."""

from datetime import UTC, datetime

from pixellm.answers import Answer, Target
from pixellm.run_lengths import RunMask
from tests.photos import Photo, load_photos
from workers.labels.rows import Attempt, Provenance, answer_row
from workers.labels.schema import LabelRow
from workers.records.instructions import Instruction, make_instruction
from workers.records.pictures import PictureLimits, decode_picture
from workers.records.record import ImageRef, Record

MADE_BY = Provenance(
    run_id="run-1",
    model_id="tiny",
    model_sha256="ab" * 32,
    adapter_sha256=None,
    label_fingerprint="f" * 16,
    code_version="0.1.0",
    precision="fp32",
    decode_json='{"max_new_tokens":64}',
)
ATTEMPT = Attempt(MADE_BY, "5" * 20, 1, datetime(2026, 11, 24, 12, 0, 0, 123456, UTC))


def make_record(uri="s3://b/in/a.jpg", *instructions: Instruction, index=0, member=None) -> Record:
    asked = instructions or (make_instruction("the cat"),)
    return Record(index, f"id-{index}", ImageRef(uri, member, "etag", None), asked, None, None)


def make_answer(masks, phrases=None, scores=None, malformed=False, truncated=False) -> Answer:
    phrases = phrases or [f"thing {n}" for n in range(len(masks))]
    scores = scores or [0.5 + n / 100 for n in range(len(masks))]
    targets = tuple(
        Target(
            index=n,
            phrase=phrase,
            span=phrase and (n, n + len(phrase)),
            phrase_source="answer" if phrase else "none",
            runs=RunMask.from_pixels(mask),
            score_mask=score,
            score_iou=None,
            score_token=0.25,
            score_phrase=phrase and 0.125,
        )
        for n, (mask, phrase, score) in enumerate(zip(masks, phrases, scores, strict=True))
    )
    return Answer("it is [SEG]." * len(masks), (1, 2), targets, malformed, truncated)


def label_photo(
    photo: Photo, index=0, *, attempt=ATTEMPT, instruction="what is there?"
) -> LabelRow:
    """The row of a perfect answer."""
    record = make_record(f"s3://b/in/{photo.name}", make_instruction(instruction), index=index)
    facts = decode_picture(photo.data, PictureLimits()).facts()
    return answer_row(record, facts, make_answer(photo.masks, photo.phrases), attempt, 12.5)


def label_photos() -> list[LabelRow]:
    return [label_photo(photo, index) for index, photo in enumerate(load_photos())]
