"""The training loop: the same end whether or not it was disturbed, and no step on a bad loss."""

import pytest
import torch
from torch import nn

from pixellm.errors import TrainingDiverged
from pixellm.loop import EXPLODED, REMEMBERED, Loop, Schedule
from pixellm.peers import Alone


class Line(nn.Module):
    """Learns numbers by heart, with dropout, so that random numbers matter."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 1)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, batch):
        values, truth = batch
        hidden = nn.functional.dropout(self.first(values).tanh(), 0.3)
        error = (self.last(hidden)[:, 0] - truth).square().mean()
        return {"error": error, "size": 0.01 * self.last.weight.square().sum()}


def batches_of(step, count=2, rows=8):
    generator = torch.Generator().manual_seed(step)
    values = [torch.randn(rows, 4, generator=generator) for _ in range(count)]
    return [(each, each.sum(1)) for each in values]


def loop_of(**schedule):
    learner = Line()
    schedule = Schedule(**{"steps": 20, "rate": 1e-2, "warm_up": 3, **schedule})
    return Loop(learner, dict(learner.named_parameters()), schedule)


def run(loop, stop=None):
    reports = []
    while not loop.done and loop.step != stop:
        reports.append(loop.learn(batches_of(loop.step)))
    return reports


def test_the_rate_rises_and_falls_to_its_floor():
    linear = Schedule(steps=110, rate=2.0, warm_up=10)
    assert [linear.rate_at(step) for step in (0, 4, 9, 10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert [linear.rate_at(step) for step in (60, 110)] == pytest.approx([1.0, 0.0])
    cosine = Schedule(steps=110, rate=2.0, warm_up=10, shape="cosine", floor=0.1)
    assert [cosine.rate_at(step) for step in (10, 60, 110)] == pytest.approx([2.0, 1.1, 0.2])


@pytest.mark.parametrize("stop", [1, 7, 19])
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_run_that_goes_on_elsewhere_ends_as_one_that_was_not_disturbed(stop, average):
    whole = loop_of(average=average)
    reports = run(whole)
    first, second = loop_of(average=average), loop_of(average=average)
    before = run(first, stop)
    tensors, rest = first.state()
    torch.manual_seed(123)  # whatever was drawn elsewhere
    second.restore({name: value.clone() for name, value in tensors.items()}, rest)
    assert [*before, *run(second)] == reports
    for name, weight in whole.trained.items():
        assert torch.equal(weight, second.trained[name])
    for name, value in whole.average.items():
        assert torch.equal(value, second.average[name])


def test_random_numbers_are_others_for_each_batch_of_each_step_and_the_same_again():
    drawn = []

    class Drawing(Line):
        def forward(self, batch):
            drawn.append(torch.rand(1).item())
            return super().forward(batch)

    for _ in range(2):
        learner = Drawing()
        run(Loop(learner, dict(learner.named_parameters()), Schedule(steps=5)))
    assert drawn[:10] == drawn[10:]
    assert len(set(drawn)) == 10


def test_workers_draw_other_random_numbers_for_batches_of_one_number():
    drawn = []

    class Drawing(Line):
        def forward(self, batch):
            drawn.append(torch.rand(1).item())
            return super().forward(batch)

    class Second(Alone):
        rank = 1

    for peers in (Alone(), Second()):
        learner = Drawing()
        run(Loop(learner, dict(learner.named_parameters()), Schedule(steps=2), peers))
    assert len(set(drawn)) == len(drawn) == 8


def test_what_is_learned_gets_better():
    reports = run(loop_of(steps=150))
    errors = [report.losses["error"] for report in reports]
    assert sum(errors[-20:]) < sum(errors[:20]) / 2
    assert reports[-1].total == pytest.approx(sum(reports[-1].losses.values()))
    assert [report.step for report in reports] == list(range(1, 151))


def test_a_step_of_two_batches_is_one_of_their_mean():
    class Plain(Line):
        def forward(self, batch):
            values, truth = batch
            return {"error": (self.last(self.first(values))[:, 0] - truth).square().mean()}

    made = []
    for join in (False, True):
        learner = Plain()
        loop = Loop(learner, dict(learner.named_parameters()), Schedule(rate=1e-2, clip=1e9))
        batches = batches_of(0)
        if join:
            batches = [tuple(torch.cat(each) for each in zip(*batches, strict=True))]
        made.append((loop.learn(batches), loop.trained))
    (one, weights), (other, same) = made
    assert one.losses == pytest.approx(other.losses)
    assert one.gradient == pytest.approx(other.gradient)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, same[name], rtol=1e-3, atol=1e-6)


def test_a_gradient_is_clipped():
    moved = []
    for clip in (1e9, 1e-12):
        loop = loop_of(clip=clip)
        before = loop.trained["last.weight"].detach().clone()
        report = loop.learn(batches_of(0))
        assert report.gradient > 1e-3
        moved.append((loop.trained["last.weight"] - before).abs().max().item())
    assert moved[1] < moved[0] / 10


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_changes_nothing_and_names_its_batch(bad):
    loop = loop_of()
    run(loop, 5)
    before = {name: weight.detach().clone() for name, weight in loop.trained.items()}
    first, (values, truth) = batches_of(5)
    with pytest.raises(TrainingDiverged, match=r"loss of step 6 is no number .*error") as caught:
        loop.learn([first, (values * bad, truth), (values * bad, truth)])
    assert caught.value.batch == 1
    assert loop.step == 5
    for name, weight in loop.trained.items():
        assert torch.equal(weight, before[name])


def test_a_loss_far_from_those_before_changes_nothing_either_and_names_its_batch():
    loop = loop_of(steps=500)
    run(loop, REMEMBERED)
    before = loop.trained["last.weight"].detach().clone()
    values, truth = batches_of(0)[0]
    usual, far = batches_of(0)[1], (values, truth + 1e3 * EXPLODED)
    with pytest.raises(TrainingDiverged, match=rf"step {REMEMBERED + 1} is .*, and was") as caught:
        loop.learn([usual, far, far])
    assert caught.value.batch == 1
    assert torch.equal(loop.trained["last.weight"], before)
    loop.learn(batches_of(REMEMBERED))  # and it can go on
    other = loop_of(steps=500)
    other.restore(*loop.state())  # it remembers them elsewhere, too
    with pytest.raises(TrainingDiverged, match="and was"):
        other.learn([(values, truth + 1e3 * EXPLODED)])


def test_the_average_follows_and_is_there_only_while_it_is_asked_for():
    loop = loop_of(average=0.9)
    run(loop)
    weight = loop.trained["last.weight"]
    own = weight.detach().clone()
    with loop.averaged():
        assert torch.equal(weight, loop.average["last.weight"])
        assert not torch.equal(weight, own)
    assert torch.equal(weight, own)


def test_the_state_of_other_weights_is_refused():
    tensors, rest = loop_of().state()
    del tensors["weights.first.bias"]
    with pytest.raises(KeyError, match=r"first\.bias"):
        loop_of().restore(tensors, rest)
