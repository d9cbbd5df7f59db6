"""Several workers score together what one scores alone, and all tell what went wrong with one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as processes

from pixellm.checkpoints import Checkpoint
from pixellm.errors import TrainingDiverged
from pixellm.peers import Alone
from pixellm.tiny import tiny_checkpoint
from pixellm.tuning import TunedModel
from tests.test_training_parallel import WORLD, free_port, joined
from tests.training_tables import put_local_photos
from workers.storage.stores import Anywhere
from workers.training.learner import Learner
from workers.training.parallel import Together
from workers.training.plan import DataSet, TrainPlan
from workers.training.start import Bench, start_loop
from workers.training.states import States
from workers.training.validation import start_validation
from workers.training.worker import train


def plan_in(folder, kind):
    table = f"{folder}/gold"
    return TrainPlan(
        model="tiny",
        data=(DataSet(table),),
        output=f"{folder}/{kind}",
        validation=(table,),
        evaluate_rows=4,
        best="loss",
        parallel="fsdp" if kind == "fsdp" else "ddp",
    )


def score_twice(plan, peers):
    """Scores a model, and a worse one; the evaluations, and the weights that are the result."""
    tiny, store = tiny_checkpoint(0, max_positions=512), Anywhere()
    checkpoint = Checkpoint(tiny.model, tiny.tokenizer, "")
    bench = Bench(checkpoint, store, States(store, plan.output, print), peers)
    tuned = TunedModel(checkpoint.model.train(), plan.tuning)
    loop = start_loop(plan, tuned, peers)
    validation = start_validation(plan, bench, None)
    seen = [validation.evaluate(tuned, loop)]
    with torch.no_grad():
        for weight in tuned.trained().values():
            weight.mul_(3)
    loop.step = 1
    seen.append(validation.evaluate(tuned, loop))
    validation.finish(tuned)
    result = {name: value.clone() for name, value in tuned.merged_state(peers.whole)}
    scores = [{**each.scores, "questions": each.questions} for each in seen]
    return scores, [each.best.step for each in seen], result


def work(rank, folder, kind, port):
    with joined(rank, port):
        torch.save(score_twice(plan_in(folder, kind), Together()), f"{folder}/{kind}-{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("together")
    put_local_photos(place, f"{place}/gold")
    return place


@pytest.fixture(scope="module")
def alone(folder):
    return score_twice(plan_in(folder, "alone"), Alone())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_workers_score_together_what_one_scores_alone_and_keep_the_same_best(kind, folder, alone):
    processes.spawn(work, (str(folder), kind, free_port()), nprocs=WORLD)
    (first, last), steps, weights = alone
    assert first["loss"] < last["loss"]
    assert steps == [0, 0]
    for name, value in tiny_checkpoint(0, max_positions=512).model.state_dict().items():
        if name.startswith("codebook."):
            assert torch.equal(weights[f"model.text_hidden_fcs.0.{name[14:]}"], value), name
    for rank in range(WORLD):
        found, own_steps, own = torch.load(folder / f"{kind}-{rank}.pt", weights_only=True)
        assert own_steps == steps
        for each, true in zip(found, (first, last), strict=True):
            assert each["loss"] == pytest.approx(true["loss"], abs=2e-6)
            # other questions at once in the engine: a pixel whose logit is 0 but for rounding
            assert each == pytest.approx(true, abs=1e-3)
        assert own.keys() == weights.keys()
        for name, value in weights.items():
            assert torch.equal(own[name], value), name
    pages = sorted(path.name for path in (folder / kind / "pages").iterdir())
    assert pages == ["000000000.html", "000000001.html"]


# ---- a loss that is no number ----


def diverge(rank, folder, port):
    """The last worker's first batch has no loss; what each is told, and which rows it had."""
    forward, names = Learner.forward, []

    def overflow(learner, batch):
        names.extend(batch.names)
        parts = forward(learner, batch)
        return {name: part * (torch.nan if rank else 1) for name, part in parts.items()}

    Learner.forward = overflow
    plan = replace(plan_in(folder, "diverged"), held_out=0, evaluate_every=0, accumulate=1)
    tiny, store = tiny_checkpoint(0, max_positions=512), Anywhere()
    checkpoint = Checkpoint(tiny.model, tiny.tokenizer, "")
    with joined(rank, port):
        bench = Bench(checkpoint, store, States(store, plan.output, print), Together())
        with pytest.raises(TrainingDiverged) as caught:
            train(plan, bench, print)
    Path(folder, f"told-{rank}.json").write_text(json.dumps([f"{caught.value}", names]))


@pytest.mark.slow
def test_every_worker_names_the_rows_whose_loss_is_no_number(folder):
    processes.spawn(diverge, (str(folder), free_port()), nprocs=WORLD)
    told = [json.loads((folder / f"told-{rank}.json").read_text()) for rank in range(WORLD)]
    (first, fine), (last, bad) = told
    assert not set(fine) & set(bad)
    for message in (first, last):
        assert "loss of step 1 is no number" in message
        assert message.endswith(f"its rows are {', '.join(bad)}")
