"""What learns, and that files hold what was learned."""

from functools import cache

import pytest
import torch

from pixellm.checkpoints import official_state
from pixellm.errors import CheckpointError
from pixellm.learners import Tuning
from pixellm.losses import LossWeights
from pixellm.tiny import tiny_checkpoint
from pixellm.training import training_losses
from pixellm.tuning import TunedModel
from tests.test_model import batch_of


def learned(tuning=None, by=0.02):
    """A tiny model, some weights of which are no longer what they were."""
    tuned = TunedModel(tiny_checkpoint(0).model, tuning or Tuning())
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in tuned.trained().values():
            weight.add_(by * torch.randn_like(weight))
    return tuned


@cache
def batch():
    torch.manual_seed(0)
    return batch_of(tiny_checkpoint(0))


def losses_of(model):
    with torch.no_grad():
        losses = training_losses(model.eval(), batch(), LossWeights())
    return [losses.ce.item(), losses.bce.item(), losses.dice.item()]


def test_by_default_the_papers_parts_learn():
    names = set(TunedModel(tiny_checkpoint(0).model, Tuning()).trained())
    lora = {name for name in names if ".lora_" in name}
    assert {name.split(".lora_")[0] for name in lora} == {
        f"language.model.layers.{layer}.self_attn.{kind}_proj" for layer in (0, 1) for kind in "qv"
    }
    whole = {name.split(".")[0] for name in names - lora}
    assert whole == {"language", "image_projector", "mask_projector", "codebook", "decoder"}
    assert {name for name in names - lora if name.startswith("language.")} == {
        "language.lm_head.weight",
        "language.model.embed_tokens.weight",
    }
    frozen = ("vision.", "decoder.neck.", "decoder.no_mask_embed.")
    assert not [name for name in names if name.startswith(frozen)]


@pytest.mark.parametrize(
    ("tuning", "learns", "frozen"),
    [
        (Tuning(neck=True), "decoder.neck.", "vision."),
        (Tuning(light=False), "language.model.layers.0.self_attn.q_proj.lora_A", "decoder."),
        (Tuning(rank=0), "decoder.transformer.", "language.model.layers."),
        (Tuning(full=True), "vision.", "lora_"),
    ],
)
def test_parts_learn_as_they_are_told(tuning, learns, frozen):
    names = TunedModel(tiny_checkpoint(0).model, tuning).trained()
    assert any(name.startswith(learns) for name in names)
    assert not any(name.startswith(frozen) or frozen in name for name in names)


def test_nothing_that_learns_is_an_error():
    with pytest.raises(ValueError, match="nothing would learn"):
        TunedModel(tiny_checkpoint(0).model, Tuning(rank=0, light=False))


@pytest.mark.parametrize("tuning", [Tuning(), Tuning(full=True), Tuning(rank=0)])
def test_a_merged_model_says_what_the_tuned_one_says(tuning):
    tuned, merged = learned(tuning), tiny_checkpoint(0).model
    before = losses_of(merged)
    state = official_state(merged)
    made = dict(tuned.merged_state())
    assert made.keys() == state.keys()
    for key, value in made.items():
        state[key].data.copy_(value)
    assert losses_of(merged) == pytest.approx(losses_of(tuned.model), rel=1e-5)
    assert losses_of(merged) != pytest.approx(before, rel=1e-3)


def test_lora_stands_beside_the_layers_that_are_asked_for_and_those_of_no_other_part():
    tuned = TunedModel(tiny_checkpoint(0).model, Tuning(targets=("k", "down"), light=False))
    assert {name.split(".lora_")[0] for name in tuned.trained()} == {
        f"language.model.layers.{layer}.{kind}_proj"
        for layer in (0, 1)
        for kind in ("self_attn.k", "mlp.down")
    }


def test_without_lora_there_is_no_adapter_to_write(tmp_path):
    with pytest.raises(CheckpointError, match="Write the whole model instead"):
        learned(Tuning(full=True)).save_adapter(tmp_path)
