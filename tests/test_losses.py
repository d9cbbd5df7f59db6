import pytest
import torch

from pixellm.losses import LossWeights, mask_losses, next_token_loss, sum_losses
from pixellm.prompts import IGNORE_INDEX
from tests.official import META

LOSSES, COUNTS = META["losses"], META["masks_per_question"]
IMAGE_TOKENS = 256


@pytest.fixture
def masks(tensors):
    pred = [tensors[f"loss.image{i}.pred_masks"].clone().requires_grad_() for i in (0, 1)]
    return pred, [tensors[f"loss.image{i}.gt_masks"] for i in (0, 1)]


@pytest.fixture(scope="module")
def words(tensors):
    """Logits and labels at full length; positions that aren't supervised hold noise."""
    ids, labels = tensors["loss.input_ids"], tensors["loss.labels"]
    rows = []
    for row, label in zip(ids, labels, strict=True):
        at = int((row == -200).nonzero())
        image = torch.full((IMAGE_TOKENS,), IGNORE_INDEX)
        rows.append(torch.cat([label[:at], image, label[at + 1 :]]))
    expanded = torch.stack(rows)
    supervised = tensors["loss.logits_supervised"]
    logits = torch.randn(*expanded.shape, supervised.shape[1])
    logits[:, :-1][expanded[:, 1:] != IGNORE_INDEX] = supervised
    return logits, expanded


def test_the_words_loss_equals_the_official_one(words):
    assert next_token_loss(*words).item() == pytest.approx(LOSSES["ce_loss"], rel=1e-6)


def test_where_nothing_is_learned_the_words_loss_is_zero_and_has_a_graph():
    logits = torch.randn(2, 4, 8, requires_grad=True)
    loss = next_token_loss(logits, torch.full((2, 4), IGNORE_INDEX))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


def test_mask_losses_equal_the_official_ones(masks):
    losses = mask_losses(*masks, COUNTS, LossWeights())
    assert losses.bce.item() == pytest.approx(LOSSES["mask_bce_loss"], rel=1e-6)
    assert losses.dice.item() == pytest.approx(LOSSES["mask_dice_loss"], rel=1e-6)
    assert losses.refinement.item() == 0


def test_the_refinement_loss_equals_the_official_one_called_directly(masks):
    losses = mask_losses(*masks, COUNTS, LossWeights(refinement=2.0))
    wanted = LOSSES["overlap_loss_combined_x_bce_weight"]
    assert losses.refinement.item() == pytest.approx(wanted, rel=1e-5)
    for i, wanted in enumerate(LOSSES["overlap_loss_per_image_unweighted"]):
        one = [[part[i]] for part in masks]
        loss = mask_losses(*one, [COUNTS[i]], LossWeights(refinement=1.0)).refinement
        assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_the_total_is_the_official_one(words, masks):
    weights = LossWeights()
    losses = sum_losses(next_token_loss(*words), mask_losses(*masks, COUNTS, weights), weights)
    assert losses.total.item() == pytest.approx(LOSSES["loss"], rel=1e-6)
    assert losses.ce.item() == pytest.approx(LOSSES["ce_loss"], rel=1e-6)


def test_masks_of_different_questions_may_overlap_for_nothing(masks):
    apart = mask_losses(*masks, [[1, 1, 1], [1, 1, 1]], LossWeights(refinement=2.0))
    assert apart.refinement.item() == 0


def test_summed_parts_count_once(masks):
    pred, target = masks
    doubled = [target[0] * 2, target[1]]
    once = mask_losses(pred, target, COUNTS, LossWeights())
    twice = mask_losses(pred, doubled, COUNTS, LossWeights())
    assert (twice.bce, twice.dice) == (once.bce, once.dice)


@pytest.mark.parametrize("refinement", [0.0, 2.0])
def test_an_image_without_masks_adds_nothing_and_stays_in_the_graph(masks, refinement):
    pred, target = masks
    empty = torch.zeros(0, 7, 9, requires_grad=True)
    weights = LossWeights(refinement=refinement)
    with_it = mask_losses(
        [*pred, empty], [*target, torch.zeros(0, 7, 9)], [*COUNTS, [0, 0]], weights
    )
    without = mask_losses(pred, target, COUNTS, weights)
    for name in ("bce", "dice", "refinement"):
        assert getattr(with_it, name).item() == pytest.approx(getattr(without, name).item())
    (with_it.bce + with_it.dice + with_it.refinement).backward()
    assert empty.grad is not None
    assert pred[0].grad.isfinite().all()


def test_a_batch_without_any_mask_can_be_learned_from():
    queries = torch.zeros(0, 4, requires_grad=True)
    pred = (queries @ torch.ones(4, 6, requires_grad=True)).reshape(0, 2, 3)
    losses = mask_losses([pred], [torch.zeros(0, 2, 3)], [[]], LossWeights(refinement=2.0))
    total = losses.bce + losses.dice + losses.refinement
    total.backward()
    assert total.item() == 0


def test_counts_that_contradict_the_masks_are_refused(masks):
    pred, target = masks
    with pytest.raises(ValueError, match="image 1 of the batch"):
        mask_losses(pred, [target[0], target[1][:2]], COUNTS, LossWeights())
    with pytest.raises(ValueError, match="image 0 of the batch"):
        mask_losses(pred, target, [[8, 4], [3, 0]], LossWeights())
    with pytest.raises(ValueError, match="at least one image"):
        mask_losses([], [], [], LossWeights())
