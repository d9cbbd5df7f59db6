"""How good an arm of an ablation is, on held-out scenes, by two measures.

Read answers: the model reads the right answer and only its masks count. Every target of every
question has one, so chance in what is said plays no part; this is the measure with little noise.
Generated answers: the model says by itself what matches. Whether it names the right things decides
more than its masks do, and a short training leaves much of that to chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixellm.answers import DecodeSettings
from pixellm.checkpoints import Checkpoint
from pixellm.drawn.arms import SEVERAL, Arm
from pixellm.drawn.bank import Bank
from pixellm.drawn.crowds import crowded_seeds
from pixellm.drawn.joint_stage import JointStage
from pixellm.drawn.scenes import TEST_SEEDS
from pixellm.drawn.score import held_out_questions, summary, verdicts
from pixellm.engine.engine import Engine

QUESTIONS = 4
"""About each scene."""
MOST_TOKENS = 128
"""Of an answer: five targets of ten codebook tokens and some words each."""


@dataclass(frozen=True, slots=True)
class ArmScores:
    """The scores of one arm after one training."""

    read_iou: float
    """mean IoU of all targets' masks when the right answers are read"""
    giou: float
    """of generated answers, as `pixellm.drawn.score` has it"""
    exact: float
    """share of generated answers with the right targets, each with an IoU above 1/2"""
    words: float
    """share of generated answers that name the right targets"""
    targets: int
    """whose masks `read_iou` is the mean of"""
    questions: int


def score_arm(arm: Arm, joint: JointStage, scenes: int) -> ArmScores:
    """Scores the model of an arm as it is now.

    Args:
        arm: which.
        joint: its model and losses.
        scenes: of those that nothing is trained on.
    """
    seeds: Sequence[int] = TEST_SEEDS[:scenes]
    if arm.crowded:
        seeds = crowded_seeds(TEST_SEEDS, scenes)
    kinds = tuple(SEVERAL) if arm.crowded else ()
    bank = Bank(seeds, joint.model.config.image_side, allowed=TEST_SEEDS)
    asked = [held_out_questions(scene, QUESTIONS, kinds) for scene in bank.scenes]
    read = joint.mask_ious(bank, asked)
    settings = DecodeSettings(max_new_tokens=MOST_TOKENS)
    engine = Engine(Checkpoint(joint.model, joint.tokenizer, ""), settings)
    total = summary(verdicts(engine, seeds, QUESTIONS, kinds))["total"]
    return ArmScores(
        read_iou=round(float(np.mean(read)), 4),
        giou=total["gIoU"],
        exact=total["exact"],
        words=total["words"],
        targets=len(read),
        questions=QUESTIONS * scenes,
    )
