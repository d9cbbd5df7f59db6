"""The settings that the paper's ablations compare, as models that learn and can be asked."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from pixellm.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from pixellm.drawn.arm_scores import QUESTIONS, score_arm
from pixellm.drawn.arms import (
    ARMS,
    FEATURES,
    SEVERAL,
    STUDIES,
    ArmStages,
    LastToken,
    LearnedFusion,
    arm_model,
)
from pixellm.drawn.bank import Bank, overlaps
from pixellm.drawn.crowds import CROWDED, crowded_seeds, hidden_share
from pixellm.drawn.joint_stage import JointStage
from pixellm.drawn.language_stage import SpeakingParts
from pixellm.drawn.questions import GROUP
from pixellm.drawn.recipe import VOCABULARY, drawn_tokenizer, small_schedule
from pixellm.drawn.scenes import TEST_SEEDS, draw_scene, render
from pixellm.drawn.score import held_out_questions
from pixellm.drawn.stages import Stage, Turn
from pixellm.drawn.start import small_config, start_model
from pixellm.drawn.vision_stage import SeeingParts
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from pixellm.images import prepare_image
from pixellm.prompts import label_conversation
from pixellm.tiny import Script
from pixellm.training import TrainingBatch, pad_conversations, read_answers

SCHEDULE = small_schedule(10, 1e-3)


@pytest.fixture(scope="module")
def bank():
    return Bank(range(8), 128)


@pytest.fixture(scope="module")
def learned():
    """What the arms share, at random: `begin_arm` asks for it by the names of stages."""
    tokenizer = drawn_tokenizer()
    model = start_model(small_config(tokenizer.vocab_size), seed=99)
    projector = model.image_projector.named_parameters(prefix="image_projector")
    stages = {
        "vision": dict(SeeingParts(model).named_parameters()),
        "language": dict(SpeakingParts(model, tokenizer).named_parameters()),
        "align": dict(projector),
    }
    return stages.__getitem__


class Ready(NamedTuple):
    stage: Stage
    joint: JointStage


def begin(name, learned, bank, seed=0):
    """The second stage of an arm, whose first one has not been run."""
    return Ready(*ArmStages(ARMS[name], seed, learned, bank).join(SCHEDULE, {}))


@pytest.mark.parametrize(
    "name", ["scales-1", "scales-3", "tokens-5", "fusion-learned", "decoder-one-pass"]
)
def test_every_part_that_an_arm_compares_learns(name, learned, bank):
    arm, ready = ARMS[name], begin(name, learned, bank)
    config = ready.stage.model.config
    assert (config.scales, config.tokens_per_scale) == (arm.scales, arm.tokens)
    losses = ready.stage.lessons(Turn("join", 0, 10))
    assert {"ce", "oracle", "bce", "dice", "refinement"} < losses.keys()
    sum(losses.values()).backward()
    weights = ready.stage.trained()
    learning = [f"decoder.transformer.{scale}.layers.0.norm1.weight" for scale in range(arm.scales)]
    learning += ["codebook.head.0.weight", "mask_projector.0.weight", "decoder.neck.0.weight"]
    learning += ["codebook.shares"] * (arm.fusion == "learned")
    assert all(weights[part].grad.abs().max() > 0 for part in learning)
    assert not any(part.startswith("vision.") for part in weights)


def test_the_decoder_learns_first_by_itself(learned, bank):
    stage = ArmStages(ARMS["scales-3"], 0, learned, bank).cut(SCHEDULE)
    losses = stage.lessons(Turn("cut", 0, 10))
    assert losses.keys() == {"bce", "dice", "refinement"}
    sum(losses.values()).backward()
    parts = {name.split(".")[0] for name, each in stage.trained().items() if each.grad is not None}
    assert parts == {"decoder", "mask_projector", "oracle"}
    assert {name.split(".")[0] for name in stage.trained()} == parts


def test_what_the_decoder_has_learned_is_what_the_codebook_begins_with(learned, bank):
    stages = ArmStages(ARMS["paper"], 0, learned, bank)
    cut = {name: each + 1 for name, each in stages.cut(SCHEDULE).trained().items()}
    stage, _ = stages.join(SCHEDULE, cut)
    weights = dict(stage.lessons.parts.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in cut.items())
    assert not weights["oracle.layers.0.weight"].requires_grad


def test_without_refinement_there_is_no_such_loss(learned, bank):
    arm = ArmStages(ARMS["crowded-unrefined"], 0, learned, bank)
    for stage in (arm.cut(SCHEDULE), arm.join(SCHEDULE, {})[0]):
        losses = stage.lessons(Turn(stage.name, 0, 10))
        assert {"bce", "dice"} <= losses.keys()
        assert "refinement" not in losses


def test_features_lie_at_equal_distances_as_far_as_the_tower_is_deep():
    depth = 7
    assert arm_model(ARMS["scales-3"], 0).vision.entries == (6, 3, 1)
    assert arm_model(ARMS["scales-1"], 0).vision.entries == (6,)
    assert arm_model(ARMS["decoder-one-scale"], 0).vision.entries == (6, 6)
    for layers in FEATURES.values():
        assert layers == tuple(max(-2 - 3 * at, -depth) for at in range(len(layers)))


@pytest.mark.parametrize("name", ["scales-1", "scales-3"])
def test_a_model_of_one_or_three_scales_is_saved_loaded_and_asked(name, tmp_path):
    arm = ARMS[name]
    model, tokenizer = arm_model(arm, 0).eval(), drawn_tokenizer(arm.scales * arm.tokens)
    save_checkpoint(model, tokenizer, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.model.config.feature_layers == arm.layers
    picture = prepare_image(render(draw_scene(1), 128, 128).rgb, 128)
    sample = Sample(picture, ("Find the star.", "Find all circles."))
    script = [*tokenizer.seg_ids, *tokenizer.seg_ids, tokenizer.eos_id]
    made, said = (
        Engine(each, predict=Script([script], tokenizer)).answer([sample])[0]
        for each in (Checkpoint(model, tokenizer, ""), loaded)
    )
    assert [len(answer.targets) for answer in made] == [2, 2]
    for one, other in zip(made, said, strict=True):
        assert one.text == other.text
        for target, same in zip(one.targets, other.targets, strict=True):
            assert np.array_equal(np.array(target.mask), np.array(same.mask))


def test_learned_weights_begin_as_the_mean(learned, bank):
    mean, own = (begin(name, learned, bank).stage.model for name in ("paper", "fusion-learned"))
    states = torch.randn(12, 128, generator=torch.Generator().manual_seed(0))
    assert isinstance(own.codebook, LearnedFusion)
    assert torch.allclose(own.codebook(states), mean.codebook(states), atol=1e-6)
    with torch.no_grad():
        own.codebook.shares[1, 2] = 0
        queries = own.codebook(states)
        third = own.codebook.head(states).reshape(2, 2, 3, -1)[:, :, 2] / 6
        assert torch.allclose(queries[:, 1] + third[:, 1], mean.codebook(states)[:, 1], atol=1e-6)
        assert torch.allclose(queries[:, 0], mean.codebook(states)[:, 0], atol=1e-6)


def test_the_last_token_is_all_that_counts_where_it_is_to_be():
    codebook, vectors = LastToken(8, 4, 2, 3), torch.arange(48.0).reshape(12, 4)
    assert torch.equal(codebook.fuse(vectors)[1], vectors[[8, 11]])


def test_arms_share_what_was_learned_before_and_begin_the_rest_from_their_seed(learned, bank):
    one, same, other = (begin("paper", learned, bank, seed).stage.model for seed in (0, 0, 1))
    five = begin("tokens-5", learned, bank).stage.model
    for model in (one, other, five):
        base = learned("language")
        words = model.language.model.embed_tokens.weight
        before = base["language.model.embed_tokens.weight"]
        assert torch.equal(words[:VOCABULARY], before[:VOCABULARY])
        assert torch.equal(words[-2:], before[-2:])
        assert not torch.equal(words[VOCABULARY], before[VOCABULARY])
        patches = model.vision.clip.embeddings.patch_embedding.weight
        assert torch.equal(
            patches, learned("vision")["vision.clip.embeddings.patch_embedding.weight"]
        )
        assert torch.equal(
            model.image_projector[0].weight, learned("align")["image_projector.0.weight"]
        )
    assert five.language.lm_head.weight.shape[0] == VOCABULARY + 10 + 2
    for part in ("decoder", "codebook", "mask_projector"):
        first, again, else_ = (
            torch.cat([weight.flatten() for weight in getattr(model, part).parameters()])
            for model in (one, same, other)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, else_)


def test_masks_of_answers_that_are_read_are_those_of_the_model(learned):
    bank = Bank(TEST_SEEDS[:3], 128, allowed=TEST_SEEDS)
    joint = begin("paper", learned, bank).joint
    with torch.no_grad():  # a random decoder says "nowhere"
        joint.model.decoder.output_hypernetworks_mlps[0].layers[-1].bias.add_(1.0)
    asked = [held_out_questions(scene, 3) for scene in bank.scenes]
    found = joint.mask_ious(bank, asked)
    wanted = [
        read_alone(joint, scene, each)
        for scene, asks in zip(bank.scenes, asked, strict=True)
        for each in asks
        if each.targets
    ]
    assert found == pytest.approx([iou for ious in wanted for iou in ious], abs=5e-3)
    assert np.std(found) > 0.01


def read_alone(joint, scene, question):
    """IoU of one question's masks, the way of the whole model."""
    drawing = render(scene, 128, 128)
    answer = question.answer.replace(GROUP, joint.tokenizer.seg_text)
    row = label_conversation(joint.tokenizer, question.text, answer, "")
    ids, labels, valid = pad_conversations([row])
    truth = torch.from_numpy(drawing.masks[list(question.targets)])
    batch = TrainingBatch(
        pixels=prepare_image(drawing.rgb, 128).pixels[None],
        resized=((128, 128),),
        ids=ids,
        labels=labels,
        text_valid=valid,
        image_of=torch.tensor([0]),
        seg_ids=joint.tokenizer.seg_ids,
        masks=(truth,),
    )
    with torch.no_grad():
        return overlaps(read_answers(joint.model, batch).masks[0] > 0, truth).tolist()


def test_an_arm_is_scored_on_scenes_and_questions_of_its_kind(learned, bank, capsys):
    arm = ARMS["crowded"]
    scores = score_arm(arm, begin("crowded", learned, bank).joint, scenes=2)
    assert capsys.readouterr() == ("", "")
    seeds = crowded_seeds(TEST_SEEDS, 2)
    asked = [held_out_questions(draw_scene(seed), QUESTIONS, tuple(SEVERAL)) for seed in seeds]
    assert scores.targets == sum(len(each.targets) for asks in asked for each in asks)
    assert {each.kind for asks in asked for each in asks} <= {*SEVERAL, "attribute", "nothing"}
    assert scores.questions == 8
    assert 0 <= scores.read_iou <= 1


def test_crowded_scenes_are_those_in_which_a_fifth_is_hidden():
    seeds = crowded_seeds(range(200), 5)
    assert seeds == [
        seed for seed in range(seeds[-1] + 1) if hidden_share(draw_scene(seed)) >= CROWDED
    ]
    for seed in (seeds[0], 0, 1):
        scene = draw_scene(seed)
        alone = [
            render(replace(scene, things=(thing,)), 128, 128).masks[0] for thing in scene.things
        ]
        seen = render(scene, 128, 128).masks
        hidden = sum(1 - now.sum() / all_.sum() for now, all_ in zip(seen, alone, strict=True))
        assert hidden_share(scene) == pytest.approx(hidden, abs=0.02)  # rastered in another way


def test_every_study_has_the_papers_setting_and_others_that_differ_in_one_thing():
    assert set(STUDIES) == {"scales", "tokens", "fusion", "decoder", "refinement"}
    for study, (own, others) in STUDIES.items():
        assert (own.scales, own.tokens, own.fusion, own.refinement) == (2, 3, "mean", 2.0)
        for arm in others:
            assert arm.crowded == own.crowded
            assert arm != replace(own, name=arm.name), study
