"""Parity of answers: teacher-forced masks, free generation, and broken token groups."""

import torch
from torch import Tensor

from pixellm.answers import Answer, DecodeSettings
from pixellm.checkpoints import Checkpoint
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from pixellm.engine.rows import Sample
from pixellm.images import PreparedImage
from pixellm.masks import combine_scales, mask_scores, postprocess_masks
from pixellm.tiny import Script
from pixellm.training import TrainingBatch, read_answers
from tests.parity_images import prepare
from tests.parity_record import Record, recording
from tests.parity_table import MASK_LOGITS, RELATIVE, Fixture, Table

OFFICIAL = DecodeSettings(official_groups=True)
COMPARED = ("image", "questions", "counts", "new_tokens", "clip_resize", "original_size")
"""What is looked at of each entry of meta.json's `evaluate`."""


def check_teacher_forced(fixture: Fixture, checkpoint: Checkpoint, table: Table) -> None:
    """The first image with answers given: masks and their scores."""
    image, ids = prepare(fixture, checkpoint)[0], fixture.tensor("tf.input_ids")
    masks = fixture.tensor("tf.pred_masks")
    batch = TrainingBatch(
        pixels=image.pixels[None],
        resized=(image.resized,),
        ids=ids,
        labels=torch.full_like(ids, -100),
        text_valid=fixture.tensor("tf.attention_masks"),
        image_of=torch.zeros(len(ids), dtype=torch.long),
        seg_ids=checkpoint.tokenizer.seg_ids,
        masks=(torch.zeros(len(masks), *image.original),),
    )
    with torch.no_grad():
        outputs = read_answers(checkpoint.model, batch)
    table.close("teacher-forced fused embeddings", "tf.fused", outputs.queries)
    table.logits("teacher-forced masks", "tf.pred_masks", outputs.masks[0])
    _check_scores("teacher-forced scores", "tf", mask_scores(outputs.masks[0]), table)


def _check_scores(quantity: str, group: str, ours: Tensor, table: Table) -> None:
    """A pixel whose logit may be on either side of 0 may count or not."""
    fixture = table.fixture
    theirs, masks = fixture.tensor(f"{group}.mask_scores"), fixture.tensor(f"{group}.pred_masks")
    either_way = (masks.abs() <= MASK_LOGITS).flatten(1).sum(1)
    inside = (masks > 0).flatten(1).sum(1).clamp(min=1)
    allowed = RELATIVE + either_way / inside
    if ours.shape == theirs.shape:
        table.within(quantity, f"{group}.mask_scores", ours, theirs, allowed)
    else:
        table.equal(quantity, f"{group}.mask_scores", list(ours.shape), list(theirs.shape))


def check_generation(fixture: Fixture, checkpoint: Checkpoint, table: Table) -> None:
    """The official evaluate(): all questions about an image, answered freely."""
    # one question after the other: what is recorded of the decoder comes in their order
    engine = Engine(checkpoint, OFFICIAL, Limits(rows=1))
    images = prepare(fixture, checkpoint)
    for asked in fixture.meta("evaluate"):
        x, questions = asked["image"], tuple(asked["questions"])
        with recording(checkpoint.model) as record:
            (answers,) = engine.answer([Sample(images[x], questions)])
        counts = [len(answer.targets) for answer in answers]
        table.equal("generated mask counts", f"gen{x}", counts, asked["counts"])
        sizes = [list(images[x].resized), list(images[x].original)]
        recorded = [asked["clip_resize"], asked["original_size"]]
        table.equal("image, sizes", f"gen{x}", sizes, recorded)
        fixture.seen.update(f"evaluate.{key}" for key in COMPARED)
        lengths = [len(answer.token_ids) for answer in answers]
        table.equal("generated lengths", f"gen{x}", lengths, asked["new_tokens"])
        for j, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            _check_ids(f"gen{x}.q{j}", engine, question, answer, table)
            _check_states(f"gen{x}.q{j}", engine, images[x], table)
        _check_decoded(f"gen{x}", checkpoint, images[x], record, answers, table)


def _check_ids(name: str, engine: Engine, question: str, answer: Answer, table: Table) -> None:
    prompt = engine.prompt_ids(question)
    table.exact("prompt ids", f"{name}.prompt_ids", torch.tensor(prompt))
    said = torch.tensor([*prompt, *answer.token_ids])
    theirs = table.fixture.tensor(f"{name}.output_ids")
    table.equal("generated ids", f"{name}.output_ids", said.tolist(), theirs.tolist())


def _check_states(name: str, engine: Engine, image: PreparedImage, table: Table) -> None:
    """Hidden states of the whole answer, read at once and generated with the cache."""
    fixture, model = table.fixture, engine.model
    if f"{name}.last_step_hidden" not in fixture.tensors:
        return
    theirs = fixture.tensor(f"{name}.last_step_hidden")
    read = fixture.tensor(f"{name}.output_ids")[:-1][None]
    prompt = fixture.tensor(f"{name}.prompt_ids").tolist()
    with torch.inference_mode():
        encoded = model.encode_images(image.pixels[None], [image.resized])
        hidden = model.read(read, torch.ones_like(read), encoded, torch.tensor([0]))[0]
        (made,) = engine.generate(encoded, [prompt], [0])
    table.close("generated hidden states, whole", f"{name}.last_step_hidden", hidden)
    cached = torch.cat([theirs[: -len(made.hidden)], made.hidden])  # it has the new positions only
    table.close("generated hidden states, cached", f"{name}.last_step_hidden", cached)


def _check_decoded(
    name: str,
    checkpoint: Checkpoint,
    image: PreparedImage,
    record: Record,
    answers: tuple[Answer, ...],
    table: Table,
) -> None:
    """Embeddings and masks of all targets of an image."""
    config, optional = checkpoint.model.config, not any(answer.targets for answer in answers)
    vectors = record.all("codebook.head", config.decoder.width)
    sizes = [len(answer.targets) * config.group_size for answer in answers]
    for j, own in enumerate(vectors.split(sizes) if len(vectors) == sum(sizes) else ()):
        own_name = f"{name}.q{j}.seg_token_embeddings"
        table.close("generated seg embeddings", own_name, own, optional=True)
    queries = record.queries(config.scales, config.decoder.width)
    table.close("generated fused embeddings", f"{name}.fused", queries, optional=optional)
    scales = record.scales()
    for level, scale in enumerate(scales):
        masks = f"{name}.decoder_masks_l{level}"
        table.logits(f"generated masks, scale {level}", masks, scale.logits, optional=optional)
    logits = torch.empty(0, *image.original)
    if scales:
        low = combine_scales([scale.logits for scale in scales], config.mask_side)
        logits = postprocess_masks(low, image.resized, image.original, config.image_side)
    table.logits("generated masks, logits", f"{name}.pred_masks", logits, optional=optional)
    if f"{name}.mask_scores" in table.fixture.tensors or not optional:
        _check_targets(name, answers, table)


def _check_targets(name: str, answers: tuple[Answer, ...], table: Table) -> None:
    """The engine's own masks and scores."""
    targets = [target for answer in answers for target in answer.targets]
    scores = torch.tensor([target.score_mask for target in targets])
    _check_scores("generated mask scores", name, scores, table)
    theirs = table.fixture.tensor(f"{name}.pred_masks")
    for index, (target, logits) in enumerate(zip(targets, theirs, strict=False)):
        differs = (torch.from_numpy(target.mask) != (logits > 0)) & (logits.abs() > MASK_LOGITS)
        table.equal("generated masks", f"{name} mask {index}", int(differs.sum()), 0)


def check_broken_groups(fixture: Fixture, checkpoint: Checkpoint, table: Table) -> None:
    """An answer with a whole and a broken token group: the official mode drops all masks."""
    forced = fixture.meta("forced_incomplete_group")
    if not forced:
        return
    seg_ids = list(checkpoint.tokenizer.seg_ids)
    asked = fixture.meta("evaluate")[0]
    sample = Sample(prepare(fixture, checkpoint)[asked["image"]], tuple(asked["questions"][:1]))
    official, salvaged = (
        _say(checkpoint, settings, sample, forced["new_ids"])
        for settings in (OFFICIAL, DecodeSettings(forced_groups=False))
    )
    name, ids = "forced_incomplete_group", forced["new_ids"]
    table.equal("broken group, official", name, [len(official.targets)], forced["counts"])
    table.equal("broken group, official", name, len(official.targets), forced["masks"][0])
    starts = range(len(ids) - len(seg_ids) + 1)
    whole = sum(ids[at : at + len(seg_ids)] == seg_ids for at in starts)
    table.equal("broken group, salvaged", name, len(salvaged.targets), whole)
    table.equal("broken group, salvaged", name, salvaged.malformed, True)


def _say(
    checkpoint: Checkpoint, settings: DecodeSettings, sample: Sample, ids: list[int]
) -> Answer:
    engine = Engine(checkpoint, settings, predict=Script([ids], checkpoint.tokenizer))
    return engine.answer([sample])[0][0]
