"""Flags of jobs/train.py and the plan that comes of them."""

from pixellm.learners import Tuning
from pixellm.loop import Schedule
from workers.training.plan import TrainPlan
from workers.training.settings import TrainSettings


def test_how_fast_and_what_learns_is_what_the_flags_say():
    flags = "--rate 1e-4 --shape cosine --floor 0.1 --beta1 0.8 --beta2 0.9 --decay 0.2 --clip 3"
    given = ["--data", "gold", "--output", "out", *flags.split(), "--lora-targets", "q,up"]
    plan = TrainSettings.from_flags(given, "train").plan
    expected = Schedule(rate=1e-4, shape="cosine", floor=0.1, betas=(0.8, 0.9), decay=0.2, clip=3)
    assert plan.schedule == expected
    assert plan.tuning == Tuning(targets=("q", "up"))


def test_without_flags_a_run_is_the_one_that_a_plan_says_without_words():
    plan = TrainSettings.from_flags(["--data", "gold", "--output", "out"], "train").plan
    assert plan == TrainPlan(model=plan.model, data=plan.data, output=plan.output)
