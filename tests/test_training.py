from dataclasses import replace

import pytest
import torch

from pixellm.losses import LossWeights, mask_losses
from pixellm.prompts import IGNORE_INDEX, LabelledIds, label_conversation
from pixellm.tiny import tiny_checkpoint
from pixellm.training import leave_out, pad_conversations, read_answers, training_losses
from tests.test_model import batch_of


@pytest.fixture(scope="module")
def checkpoint():
    return tiny_checkpoint(0)


def test_targets_are_counted_per_question_and_masks_have_the_images_size(checkpoint):
    batch = batch_of(checkpoint)
    outputs = read_answers(checkpoint.model, batch)
    assert outputs.masks_per_row == ((2, 0), (1,))
    assert [tuple(masks.shape) for masks in outputs.masks] == [(2, 30, 40), (1, 61, 25)]
    assert outputs.queries.shape == (3, 2, 32)
    assert outputs.logits.shape[:2] == (3, batch.ids.shape[1] - 1 + 16)


def test_the_total_is_the_weighted_sum_with_the_refinement_of_overlapping_masks(checkpoint):
    batch, weights = batch_of(checkpoint), LossWeights(refinement=2.0)
    losses = training_losses(checkpoint.model, batch, weights)
    parts = (losses.ce, losses.bce, losses.dice, losses.refinement)
    assert losses.total.item() == pytest.approx(sum(part.item() for part in parts))
    outputs = read_answers(checkpoint.model, batch)
    alone = mask_losses(outputs.masks, batch.masks, [[2, 0], [1]], weights)
    assert losses.refinement.item() == pytest.approx(alone.refinement.item())
    assert losses.refinement.item() > 0


def test_masks_of_different_questions_do_not_overlap(checkpoint):
    batch = batch_of(checkpoint, ("{}", "{}", "{}"))  # a target each
    assert (read_answers(checkpoint.model, batch).masks[0] > 0).all(0).any()
    losses = training_losses(checkpoint.model, batch, LossWeights(refinement=2.0))
    assert losses.refinement.item() == 0


def test_a_batch_without_any_mask_learns_words_and_keeps_every_gradient(checkpoint):
    batch = batch_of(checkpoint, ("Nothing.", "Nothing.", "Nothing here."))
    losses = training_losses(checkpoint.model, batch, LossWeights())
    assert losses.bce.item() == losses.dice.item() == 0
    losses.total.backward()
    assert checkpoint.model.decoder.level_embed.weight.grad is not None
    assert checkpoint.model.decoder.level_embed.weight.grad.abs().sum() == 0
    checkpoint.model.zero_grad()


def test_masks_learn_in_the_order_of_their_token_groups(checkpoint):
    batch = batch_of(checkpoint)
    first, second = read_answers(checkpoint.model, batch).masks[0].detach() > 0
    right = replace(batch, masks=(torch.stack([first, second]), batch.masks[1]))
    wrong = replace(batch, masks=(torch.stack([second, first]), batch.masks[1]))
    low, high = (training_losses(checkpoint.model, b, LossWeights()).bce for b in (right, wrong))
    assert low < high


def test_a_cut_token_group_is_an_error_that_names_the_row(checkpoint):
    batch = batch_of(checkpoint)
    ids = batch.ids.clone()
    ids[1, -2] = checkpoint.tokenizer.seg_ids[0]
    with pytest.raises(ValueError, match=r"row 1 .* 1 codebook tokens, no multiple of 6"):
        training_losses(checkpoint.model, replace(batch, ids=ids), LossWeights())


def test_as_many_masks_as_token_groups_are_needed(checkpoint):
    batch = batch_of(checkpoint)
    fewer = replace(batch, masks=(batch.masks[0][:1], batch.masks[1]))
    with pytest.raises(ValueError, match="image 0 of the batch"):
        training_losses(checkpoint.model, fewer, LossWeights())


def test_padding_is_neither_read_nor_learned_but_an_unknown_word_is_read(checkpoint):
    row = label_conversation(checkpoint.tokenizer, "what is é?", "a dog.", "")
    unknown = row.ids.index(0)  # <unk> has the id that pads
    ids, labels, valid = pad_conversations([row, LabelledIds(row.ids[:4], row.labels[:4])])
    assert valid[0].tolist() == [1] * len(row.ids)
    assert valid[0, unknown] == 1
    assert valid[1].tolist() == [1] * 4 + [0] * (len(row.ids) - 4)
    assert ids[1, 4:].tolist() == [0] * (len(row.ids) - 4)
    assert set(labels[1].tolist()) == {IGNORE_INDEX}


def test_ignored_pixels_make_neither_loss_nor_gradient():
    """Two pixels of which one is ignored cost as much as the other one alone, but for the mean."""
    logits = torch.tensor([[[0.3, -2.0]]], requires_grad=True)
    truth, ignored = torch.tensor([[[True, True]]]), torch.tensor([[[False, True]]])
    alone = torch.tensor([[[0.3]]])
    weights = LossWeights(bce=1.0, dice=1.0)
    pred, true = leave_out((logits,), (truth,), (ignored,))
    both = mask_losses(pred, true, [[1]], weights)
    one = mask_losses([alone], [truth[..., :1]], [[1]], weights)
    assert both.bce.item() == pytest.approx(one.bce.item() / 2)
    assert both.dice.item() == pytest.approx(one.dice.item())
    (both.bce + both.dice).backward()
    assert logits.grad[0, 0, 1] == 0
    assert logits.grad[0, 0, 0] != 0


def test_an_overlap_that_is_ignored_is_not_refined():
    logits, truth = torch.full((2, 1, 2), 3.0), torch.zeros(2, 1, 2)
    ignored = torch.tensor([[[True, True]], [[False, False]]])
    pred, true = leave_out((logits,), (truth,), (ignored,))
    weights = LossWeights(refinement=1.0)
    assert mask_losses(pred, true, [[2]], weights).refinement.item() == 0
    assert mask_losses([logits], [truth], [[2]], weights).refinement.item() > 0


def test_where_nothing_is_ignored_everything_is_as_it_was(checkpoint):
    batch = batch_of(checkpoint)
    nothing = tuple(torch.zeros_like(masks, dtype=torch.bool) for masks in batch.masks)
    plain, other = (
        training_losses(checkpoint.model, each, LossWeights(refinement=1.0))
        for each in (batch, replace(batch, ignored=nothing))
    )
    assert plain.total.item() == other.total.item()
