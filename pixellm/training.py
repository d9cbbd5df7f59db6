"""One training step's forward pass: images, conversations and true masks -> losses.

Targets are paired by order: the token groups of an image's conversations, as they are written, with
the image's true masks. Nothing here knows an optimiser, a data set or a cluster.

Shapes: B images, R rows (conversations), L ids of a row, I image tokens, T = L - 1 + I, V
vocabulary, H language model width, N targets of the batch, n_i targets of image i, S scales, K
tokens per scale, D decoder width; h0, w0 the original size of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixellm.codebook import predicting_positions
from pixellm.losses import Losses, LossWeights, mask_losses, next_token_loss, sum_losses
from pixellm.masks import postprocess_masks
from pixellm.model import EncodedImages, PixelLM, spread
from pixellm.prompts import IGNORE_INDEX, LabelledIds

SURELY_OUTSIDE = -1e4
"""A logit whose probability, and whose loss outside of a mask, is 0 in every precision."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBatch:
    """Conversations about images, and the masks of what their answers name.

    Attributes:
        pixels: (B, 3, side, side), normalised and padded.
        resized: (h, w) of each image inside its padding.
        ids: (R, L) long with one IMAGE_TOKEN_INDEX a row. Rows stand in the order of their images.
        labels: (R, L) long; IGNORE_INDEX where nothing is learned.
        text_valid: (R, L), 0 on padding.
        image_of: (R,) long, the image of each row.
        seg_ids: the codebook's ids, in order (`Tokenizer.seg_ids`).
        masks: for each image (n_i, h0, w0), above 0 inside, in the order of its token groups.
        ignored: for each image (n_i, h0, w0) bool, the pixels of which nobody says whether they
            belong to that mask; empty where every pixel of the batch counts.
        names: of the rows, for messages; empty where they have none.
    """

    pixels: Tensor
    resized: tuple[tuple[int, int], ...]
    ids: Tensor
    labels: Tensor
    text_valid: Tensor
    image_of: Tensor
    seg_ids: tuple[int, ...]
    masks: tuple[Tensor, ...]
    ignored: tuple[Tensor, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class TrainingOutputs:
    """What the model says about a batch whose answers it reads.

    Attributes:
        logits: (R, T, V).
        queries: (N, S, D), in the order of the rows.
        masks: for each image (n_i, h0, w0) logits.
        masks_per_row: for each image, how many targets each of its rows has.
    """

    logits: Tensor
    queries: Tensor
    masks: tuple[Tensor, ...]
    masks_per_row: tuple[tuple[int, ...], ...]


def training_losses(model: PixelLM, batch: TrainingBatch, weights: LossWeights) -> Losses:
    """Computes all losses of a batch; `losses.total.backward()` gives the gradients.

    Raises:
        ValueError: an answer has an incomplete token group, or an image has more or fewer token
            groups than masks. (Did truncation cut them off?)
    """
    outputs = read_answers(model, batch)
    labels = spread(batch.labels, batch.ids, model.config.image_tokens, IGNORE_INDEX)
    pred, truth = leave_out(outputs.masks, batch.masks, batch.ignored)
    masks = mask_losses(pred, truth, outputs.masks_per_row, weights)
    return sum_losses(next_token_loss(outputs.logits, labels), masks, weights)


def leave_out(
    pred: tuple[Tensor, ...], truth: tuple[Tensor, ...], ignored: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Makes ignored pixels such that no loss and no gradient comes of them.

    They are outside of the mask in truth, and surely so in prediction: BCE and refinement are 0
    there, and DICE counts them neither as inside nor as missed. BCE still divides by all pixels.
    """
    if not ignored:
        return pred, truth
    sure = tuple(
        logits.masked_fill(unsure.to(logits.device), SURELY_OUTSIDE)
        for logits, unsure in zip(pred, ignored, strict=True)
    )
    outside = tuple(
        masks.masked_fill(unsure.to(masks.device), 0)
        for masks, unsure in zip(truth, ignored, strict=True)
    )
    return sure, outside


def read_answers(model: PixelLM, batch: TrainingBatch) -> TrainingOutputs:
    """Runs the model over whole conversations, their answers included (teacher forcing).

    Raises:
        ValueError: an answer has an incomplete token group.
    """
    counts = count_targets(batch.ids, batch.seg_ids)
    per_row = torch.tensor(counts, device=batch.image_of.device)
    owners = batch.image_of.repeat_interleave(per_row)  # (N,)
    # 1) the conversations
    images = model.encode_images(batch.pixels, batch.resized)
    hidden = model.read(batch.ids, batch.text_valid, images, batch.image_of)  # (R, T, H)
    logits = model.language.lm_head(hidden)
    # 2) the queries: the states that predict codebook tokens, row by row
    seg_ids = torch.tensor(batch.seg_ids, device=batch.ids.device)
    predicts = predicting_positions(batch.ids, seg_ids)
    queries = model.codebook(hidden[spread(predicts, batch.ids, model.config.image_tokens, 0)])
    # 3) the masks
    masks = decode_masks(model, images, queries, owners, batch)
    rows = batch.image_of.tolist()
    per_image = tuple(
        tuple(count for row, count in zip(rows, counts, strict=True) if row == image)
        for image in range(len(batch.resized))
    )
    return TrainingOutputs(logits, queries, masks, per_image)


def decode_masks(
    model: PixelLM, images: EncodedImages, queries: Tensor, owners: Tensor, batch: TrainingBatch
) -> tuple[Tensor, ...]:
    """(N, S, D) queries and the image of each (N,) -> for each image (n_i, h0, w0) logits."""
    low = model.decode(images.maps, queries, owners).logits
    return tuple(
        postprocess_masks(
            low[owners == image],
            resized,
            (masks.shape[-2], masks.shape[-1]),
            model.config.image_side,
        )
        for image, (resized, masks) in enumerate(zip(batch.resized, batch.masks, strict=True))
    )


def count_targets(ids: Tensor, seg_ids: Sequence[int]) -> list[int]:
    """Targets of each row of (R, L) ids; every codebook token must belong to a whole group."""
    seen = torch.isin(ids, torch.tensor(seg_ids, device=ids.device)).sum(1).tolist()
    for row, count in enumerate(seen):
        if count % len(seg_ids):
            raise ValueError(
                f"row {row} of the batch has {count} codebook tokens, no multiple of "
                f"{len(seg_ids)}; was a token group cut off?"
            )
    return [count // len(seg_ids) for count in seen]


def pad_conversations(rows: Sequence[LabelledIds]) -> tuple[Tensor, Tensor, Tensor]:
    """Pads conversations on the right.

    Unlike the official code, which takes any id 0 for padding, an unknown word stays visible (Q23).

    Returns:
        ids, labels and text_valid of a TrainingBatch, each (R, L) long.
    """
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([torch.tensor(row.ids) for row in rows], batch_first=True)
    labels = [torch.tensor(row.labels) for row in rows]
    valid = pad([torch.ones(len(row.ids), dtype=torch.long) for row in rows], batch_first=True)
    return ids, pad(labels, batch_first=True, padding_value=IGNORE_INDEX), valid
