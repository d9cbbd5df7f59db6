"""The part `masks`: from the decoder's low logits to run lengths, box, area and score, on one core.

    plain   logits at full size (`postprocess_masks`), a threshold in numpy, pycocotools' encode,
            area and toBbox of the Fortran-ordered pixels, the mean probability of the mask's pixels
    ours    `cut_masks`, and of its runs pycocotools' compressed counts and toBbox
    all     `cut_masks` and `encode_masks`: the same, and components, border and overlaps as well

The logits are real: the shipped model's, of drawn scenes at 480 x 640. Things in those are of two
sizes; larger masks are such logits enlarged, and masks of many parts those of all things at once.

Shapes: N masks, m = side of the low logits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from scipy import ndimage
from torch import Tensor

from pixellm.answers import Answer, DecodeSettings
from pixellm.checkpoints import load_checkpoint
from pixellm.cutting import CutMask, cut_masks
from pixellm.drawn.questions import ask
from pixellm.drawn.scenes import TEST_SEEDS, draw_scene, render
from pixellm.drawn.start import one_thread
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from pixellm.images import prepare_image
from pixellm.masks import mask_scores, postprocess_masks
from tests.benchmarks.baselines import places_of_groups
from tests.benchmarks.inputs import PHOTO, SHIPPED, make_speaker
from tests.benchmarks.options import Options
from tests.benchmarks.report import Table
from tests.benchmarks.speech import Speaker
from tests.benchmarks.timing import Contestant, race, spread, times_slower
from workers.labels.rle import EncodedMask, decode_mask, encode_masks

TOGETHER = 4
"""Masks that are cut and encoded together, as those of an answer are."""
SCENES, TOY_SCENES = 48, 4
QUESTIONS = 2
"""About each scene: "all" of a kind."""
SMALL = 8_000
"""Pixels: what lies in drawn scenes of 480 x 640 is smaller than this, or clearly larger."""
ZOOM = 3
"""How far masks are enlarged to make large ones."""
PASSES = 5
"""Over all masks in one turn: a single one would take milliseconds."""
SCORE_ERROR = 1e-4
COLUMNS = (
    "masks",
    "how many",
    "pixels",
    "parts",
    "plain, ms a mask",
    "ours, ms a mask",
    "plain : ours",
    "all, ms a mask",
    "plain : all",
    "same bytes",
)
NOTES = (
    "One thread. Medians (least–most) of the repetitions; ratios are taken within a repetition."
    f" Masks are taken {TOGETHER} at a time, each into a frame of {PHOTO[0]} x {PHOTO[1]} pixels.",
    "Timed of plain: postprocess_masks to full-size float logits, > 0, asfortranarray, pycocotools'"
    " encode, area and toBbox, and mask_scores.",
    "Timed of ours, the same work: cut_masks (which also makes the score), area of the runs,"
    " pycocotools' frPyObjects and toBbox.",
    "Timed of all: cut_masks and encode_masks, which besides counts components, looks at borders"
    " and compares the masks of an answer: more work than plain does.",
    "same bytes: masks whose compressed run lengths, box and area equal plain's.",
)


@dataclass(frozen=True, slots=True)
class Coded:
    """What every contestant makes of a mask."""

    counts: bytes
    """compressed COCO run lengths"""
    area: int
    bbox: tuple[float, ...]
    score: float


@dataclass(frozen=True, slots=True)
class Frame:
    """Where masks belong."""

    resized: tuple[int, int]
    original: tuple[int, int]
    side: int


# ---- contestants ----


def encode_plainly(low: Tensor, frame: Frame) -> list[Coded]:
    """(N, m, m) logits, by full-size float logits."""
    logits = postprocess_masks(low, frame.resized, frame.original, frame.side)
    pixels = (logits > 0).numpy().transpose(1, 2, 0)
    codes = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    areas, boxes = coco_mask.area(codes), coco_mask.toBbox(codes)
    return _coded(codes, areas.tolist(), boxes, mask_scores(logits).tolist())


def encode_runs(low: Tensor, frame: Frame) -> list[Coded]:
    """(N, m, m) logits, by runs; the work of `encode_plainly`."""
    cuts = cut_masks(low, frame.resized, frame.original, frame.side)
    plain = [{"size": list(c.runs.size), "counts": c.runs.counts} for c in cuts]
    codes = coco_mask.frPyObjects(plain, *frame.original)
    areas, boxes = [cut.runs.area for cut in cuts], coco_mask.toBbox(codes)
    return _coded(codes, areas, boxes, [cut.score for cut in cuts])


def encode_all(low: Tensor, frame: Frame) -> list[Coded]:
    """(N, m, m) logits, as the labelling line does it."""
    cuts = cut_masks(low, frame.resized, frame.original, frame.side)
    coded = encode_masks([cut.runs for cut in cuts])
    return [_of_line(cut, each) for cut, each in zip(cuts, coded, strict=True)]


def _of_line(cut: CutMask, coded: EncodedMask) -> Coded:
    return Coded(coded.counts.encode(), coded.area, coded.bbox, cut.score)


def _coded(
    codes: Sequence[Mapping[str, Any]],
    areas: Sequence[int],
    boxes: Any,
    scores: Sequence[float],
) -> list[Coded]:
    rows = zip(codes, areas, boxes.tolist(), scores, strict=True)
    return [Coded(code["counts"], area, tuple(box), score) for code, area, box, score in rows]


CONTESTANTS = {"plain": encode_plainly, "ours": encode_runs, "all": encode_all}


def encode_each(
    encode: Callable[[Tensor, Frame], list[Coded]], low: Tensor, frame: Frame, passes: int
) -> list[Coded]:
    """All masks some times over, `TOGETHER` at a time; what the last pass made."""
    coded = list[Coded]()
    for _ in range(passes):
        coded = [each for part in low.split(TOGETHER) for each in encode(part, frame)]
    return coded


def disagreements(theirs: Sequence[Coded], ours: Sequence[Coded]) -> list[int]:
    """Which masks are not the same in both."""
    return [
        at
        for at, (a, b) in enumerate(zip(theirs, ours, strict=True))
        if (a.counts, a.area, a.bbox) != (b.counts, b.area, b.bbox)
        or abs(a.score - b.score) > SCORE_ERROR
    ]


# ---- masks ----


def draw_masks(scenes: int) -> tuple[dict[str, Tensor], Frame]:
    """Low logits (N, m, m) of each kind, and the frame of all."""
    speaker = make_speaker(load_checkpoint(SHIPPED), DecodeSettings(max_new_tokens=80))
    samples = [_sample(number, speaker.model.config.image_side) for number in range(scenes)]
    answers = Engine(speaker.checkpoint, speaker.settings).answer(samples)
    image = samples[0].image
    frame = Frame(image.resized, image.original, speaker.model.config.image_side)
    each = [read_low(speaker, *pair) for pair in zip(samples, answers, strict=True)]
    single, every = torch.cat(each), torch.stack([low.amax(0) for low in each if len(low)])
    areas = (postprocess_masks(single, frame.resized, frame.original, frame.side) > 0).sum((1, 2))
    small, medium = single[areas < SMALL], single[areas >= SMALL]
    kinds = {"small": small, "medium": medium, "large": enlarge(medium, frame), "many": every}
    return kinds, frame


def _sample(number: int, side: int) -> Sample:
    scene = draw_scene(TEST_SEEDS[number])
    rng = np.random.default_rng([7, scene.seed])
    image = prepare_image(render(scene, *PHOTO).rgb, side)
    return Sample(image, tuple(ask(scene, rng, "all").text for _ in range(QUESTIONS)))


@torch.inference_mode()
def read_low(speaker: Speaker, sample: Sample, answers: Sequence[Answer]) -> Tensor:
    """The low logits (N, m, m) of answers that were given, all questions of an image together."""
    model, image = speaker.model, sample.image
    seen = model.encode_images(image.pixels[None], [image.resized])
    states = list[Tensor]()
    for question, answer in zip(sample.questions, answers, strict=True):
        prompt = speaker.prompt(question)
        read = torch.tensor([[*prompt, *answer.token_ids]])
        hidden = model.read(read, torch.ones_like(read), seen, torch.tensor([0]))[0]
        own = hidden[speaker.length(prompt) - 1 :]  # a state predicts the next id
        states.append(own[places_of_groups(speaker, answer.token_ids)])
    together = torch.cat(states)
    if not len(together):
        return together.new_empty(0, model.config.mask_side, model.config.mask_side)
    queries = model.codebook(together)
    return model.decode(seen.maps, queries, torch.zeros(len(queries), dtype=torch.long)).logits


def enlarge(low: Tensor, frame: Frame) -> Tensor:
    """The middle of each mask, `ZOOM` times as large; the padding stays as it is."""
    side = low.shape[-1]
    height, width = (side * valid // frame.side for valid in frame.resized)
    tall, wide = height // ZOOM, width // ZOOM
    large = low.clone()
    for mask, into in zip(low, large, strict=True):
        y, x = (int(each.float().mean()) for each in (mask[:height, :width] > 0).nonzero().T)
        top = min(max(0, y - tall // 2), height - tall)
        left = min(max(0, x - wide // 2), width - wide)
        crop = mask[None, None, top : top + tall, left : left + wide]
        into[:height, :width] = F.interpolate(crop, (height, width), mode="bilinear")[0, 0]
    return large


# ---- the race ----


def run(options: Options) -> Iterator[Table]:
    """One table, with a row for each kind of mask."""
    kinds, frame = draw_masks(TOY_SCENES if options.toy else SCENES)
    passes = 1 if options.toy else PASSES
    with one_thread():
        racing = {kind: set_up(kind, low, frame, passes) for kind, low in kinds.items()}
        race([each for own in racing.values() for each in own.values()], options.repetitions)
    yield make_table(racing, kinds, frame)


def set_up(kind: str, low: Tensor, frame: Frame, passes: int) -> dict[str, Contestant[list[Coded]]]:
    """The contestants on masks of one kind, after one untimed pass each."""
    contestants = {}
    for name, encode in CONTESTANTS.items():
        encode_each(encode, low, frame, 1)
        work = partial(encode_each, encode, low, frame, passes)
        contestants[name] = Contestant(f"{name}, {kind} masks", len(low) * passes, work)
    return contestants


def make_table(
    racing: Mapping[str, Mapping[str, Contestant[list[Coded]]]],
    kinds: Mapping[str, Tensor],
    frame: Frame,
) -> Table:
    """What came out."""
    rows, failures = list[list[str]](), list[str]()
    for kind, own in racing.items():
        plain, ours, everything = own["plain"], own["ours"], own["all"]
        results = [each.result or [] for each in (plain, ours, everything)]
        wrong = {*disagreements(results[0], results[1]), *disagreements(results[0], results[2])}
        count = len(kinds[kind])
        if wrong or not count:
            failures.append(f"{kind} masks: {len(wrong)} of {count} differ from plain's")
        pixels, parts = measure(results[0], frame)
        rows.append(
            [
                kind,
                str(count),
                f"{pixels:,.0f}",
                f"{parts:.1f}",
                *(spread(_milliseconds(plain)), spread(_milliseconds(ours))),
                spread(times_slower(plain, ours)),
                *(spread(_milliseconds(everything)), spread(times_slower(plain, everything))),
                f"{count - len(wrong)} of {count}",
            ]
        )
    raw = {each.name: each.seconds for own in racing.values() for each in own.values()}
    title = "Low logits to run lengths, box, area and score"
    return Table(title, COLUMNS, rows, NOTES, raw, failures)


def _milliseconds(contestant: Contestant[list[Coded]]) -> list[float]:
    return [1000 * seconds for seconds in contestant.each]


def measure(coded: Sequence[Coded], frame: Frame) -> tuple[float, float]:
    """Pixels and connected parts of a mask, on average."""
    decoded = [decode_mask(frame.original, each.counts.decode()) for each in coded]
    parts = [ndimage.label(mask, np.ones((3, 3)))[1] for mask in decoded]
    return float(np.mean([c.area for c in coded])), float(np.mean(parts))
