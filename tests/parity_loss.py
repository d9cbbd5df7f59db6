"""Parity of the loss path: conversations, hidden states, masks, losses and gradients."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixellm.checkpoints import Checkpoint, is_unused, official_name
from pixellm.losses import LossWeights, mask_losses
from pixellm.model import spread
from pixellm.prompts import IGNORE_INDEX, label_conversation
from pixellm.training import TrainingBatch, count_targets, read_answers, training_losses
from tests.parity_images import prepare
from tests.parity_record import Record, recording
from tests.parity_table import RELATIVE, Fixture, Table

NOISE = 1e-4
"""Gradients this much smaller than the whole one are rounding: a key bias has none, exactly."""
USER, ASSISTANT, END = "USER: <im_start><image><im_end>\n", " ASSISTANT: ", "</s>"


def loss_batch(fixture: Fixture, checkpoint: Checkpoint) -> TrainingBatch:
    """The recorded batch: all images, their conversations and true masks."""
    images = prepare(fixture, checkpoint)
    offset = fixture.tensor("loss.offset").tolist()
    rows = torch.tensor([stop - start for start, stop in pairwise(offset)])
    return TrainingBatch(
        pixels=torch.stack([image.pixels for image in images]),
        resized=tuple(image.resized for image in images),
        ids=fixture.tensor("loss.input_ids"),
        labels=fixture.tensor("loss.labels"),
        text_valid=fixture.tensor("loss.attention_masks"),
        image_of=torch.arange(len(images)).repeat_interleave(rows),
        seg_ids=checkpoint.tokenizer.seg_ids,
        masks=tuple(fixture.tensor(f"loss.image{x}.gt_masks") for x in range(len(images))),
    )


def check_conversations(fixture: Fixture, checkpoint: Checkpoint, table: Table) -> None:
    """Texts -> ids and labels, and how many targets each answer has."""
    ids, labels = fixture.tensor("loss.input_ids"), fixture.tensor("loss.labels")
    valid = fixture.tensor("loss.attention_masks").bool()
    for row, text in enumerate(fixture.meta("conversations") or ()):
        system, *turns = text.split(USER)
        question, answer = turns[0].removesuffix(END).split(ASSISTANT, 1)
        made = label_conversation(checkpoint.tokenizer, question, answer, system.rstrip())
        keep = valid[row]
        theirs = (ids[row][keep].tolist(), labels[row][keep].tolist())
        table.equal("conversation ids", f"row {row} ids", list(made.ids), theirs[0])
        if ASSISTANT in answer:
            table.remarks.append(f"conversation labels of row {row} (it has several turns)")
        else:
            table.equal("conversation labels", f"row {row} labels", list(made.labels), theirs[1])
    counts = iter(count_targets(ids, checkpoint.tokenizer.seg_ids))
    theirs = fixture.meta("masks_per_question")
    ours = [[next(counts) for _ in image] for image in theirs]
    table.equal("masks per question", "masks_per_question", ours, theirs)


def check_forward(fixture: Fixture, checkpoint: Checkpoint, table: Table) -> None:
    """Everything between the ids and the final masks."""
    model, batch = checkpoint.model, loss_batch(fixture, checkpoint)
    with torch.no_grad(), recording(model) as record:
        outputs = read_answers(model, batch)
    # 1) the language model
    images = model.config.image_tokens
    with torch.no_grad():
        encoded = model.encode_images(batch.pixels, batch.resized)
    keys = model.key_mask(batch.ids, batch.text_valid, encoded.token_valid[batch.image_of])
    table.exact("LLM mask", "loss.llm_mask", keys)
    table.close("LLM hidden states", "loss.llm_hidden", record.calls["language"][0])
    learned = spread(batch.labels, batch.ids, images, IGNORE_INDEX)[:, 1:] != IGNORE_INDEX
    supervised = outputs.logits[:, :-1][learned]
    table.close("supervised logits", "loss.logits_supervised", supervised)
    width = model.config.decoder.width
    table.close("seg embeddings", "loss.seg_token_embeddings", record.all("codebook.head", width))
    # 2) the decoder, image by image
    counts = torch.tensor([sum(rows) for rows in outputs.masks_per_row])
    owners = torch.arange(len(counts)).repeat_interleave(counts)
    for x, masks in enumerate(outputs.masks):
        _check_decoder(f"loss.image{x}", record, owners == x, x, table)
        name = f"loss.image{x}.fused"
        optional = not len(masks)
        table.close("fused embeddings", name, outputs.queries[owners == x], optional=optional)
        table.logits("final masks", f"loss.image{x}.pred_masks", masks)


def _check_decoder(name: str, record: Record, mine: Tensor, image: int, table: Table) -> None:
    """The decoder's maps and masks for one image; without targets they need not be recorded."""
    optional = not bool(mine.any())
    neck = torch.stack([scale[image] for scale in record.calls["decoder.neck"]])
    table.close("neck", f"{name}.neck_out", neck, optional=optional)
    for level, scale in enumerate(record.scales()):
        masks, iou = f"{name}.decoder_masks_l{level}", f"{name}.decoder_iou_l{level}"
        table.logits(f"decoder masks, scale {level}", masks, scale.logits[mine], optional=optional)
        table.close("IoU head", iou, scale.iou[mine], optional=optional)


def check_losses(fixture: Fixture, checkpoint: Checkpoint, table: Table) -> None:
    """Every loss, then the gradients of their sum.

    The plain attention kernel is used: the official code computes attention in plain steps, and
    small gradients differ by the kernels' rounding.
    """
    model, batch = checkpoint.model, loss_batch(fixture, checkpoint)
    model.vision.requires_grad_(False)  # the release freezes it
    model.zero_grad()
    with sdpa_kernel(SDPBackend.MATH):
        losses = training_losses(model, batch, LossWeights())
        losses.total.backward()
    ours = {
        "loss": losses.total,
        "ce_loss": losses.ce,
        "mask_bce_loss": losses.bce,
        "mask_dice_loss": losses.dice,
        "mask_loss": losses.bce + losses.dice,
    }
    recorded = dict(fixture.meta("losses"))
    for name, value in ours.items():
        label = "loss, total" if name == "loss" else f"loss {name}"
        table.scalar(label, name, value.item(), recorded.pop(name))
    _check_refinement(fixture, batch, recorded, table)
    table.equal("loss names", "losses", sorted(recorded), [])


def _check_refinement(
    fixture: Fixture, batch: TrainingBatch, recorded: dict[str, object], table: Table
) -> None:
    """Target refinement, on the recorded masks: a pixel at the threshold may fall either way."""
    masks = [fixture.tensor(f"loss.image{x}.pred_masks") for x in range(fixture.images)]
    counts = fixture.meta("masks_per_question")
    whole = mask_losses(masks, batch.masks, counts, LossWeights(refinement=2.0)).refinement
    name = "overlap_loss_combined_x_bce_weight"
    table.scalar("loss refinement, batch", name, whole.item(), recorded.pop(name))
    alone = LossWeights(refinement=1.0)
    each = recorded.pop("overlap_loss_per_image_unweighted")
    for x, theirs in enumerate(each):
        pred, truth, count = masks[x], batch.masks[x], counts[x]
        ours = mask_losses([pred], [truth], [count], alone).refinement.item()
        table.scalar("loss refinement, image", f"image {x}", ours, theirs)


def check_gradients(fixture: Fixture, checkpoint: Checkpoint, table: Table) -> None:
    """The gradients that `check_losses` left: recorded ones, every norm, and which are missing."""
    model = checkpoint.model
    grads = {official_name(name): p.grad for name, p in model.named_parameters()}
    for name in sorted(n for n in fixture.tensors if n.startswith("loss.grad.")):
        table.close(
            "gradients", name, _gradient(name.removeprefix("loss.grad."), checkpoint, grads)
        )
    norms = {key: 0.0 if g is None else g.norm().item() for key, g in grads.items()}
    theirs = fixture.meta("grad_norms")
    ours = torch.tensor([norms.get(key, float("nan")) for key in theirs])
    reference = torch.tensor(list(theirs.values()))
    allowed = RELATIVE * reference.clamp(min=NOISE * float(reference.norm()))
    for key, *values in zip(theirs, ours, reference, allowed, strict=True):
        table.within("gradient norms", key, *values)
    frozen = fixture.meta("no_grad_parameters")
    moved = sorted(key for key in frozen if norms.get(key, 0.0) != 0.0)
    table.equal("parameters without gradient", "no_grad_parameters", moved, [])
    depth = len(model.vision.clip.encoder.layers)
    strange = sorted(key for key in frozen if key not in norms and not is_unused(key, depth))
    unlisted = sorted(set(norms) - set(theirs) - set(frozen))
    table.equal("parameters without gradient", "names", [*strange, *unlisted], [])


def _gradient(name: str, checkpoint: Checkpoint, grads: dict[str, Tensor | None]) -> Tensor:
    """A gradient by the fixture's name for it, such as "mask_decoder.level_embed"."""
    if name == "lm_head_seg_rows":
        whole = grads["lm_head.weight"]
        return whole[list(checkpoint.tokenizer.seg_ids)]
    keys = (f"model.{name}", f"model.{name}.weight", name, f"{name}.weight")
    return next(grads[key] for key in keys if key in grads)
