"""Several workers score together what one scores alone, whatever each holds of the model."""

import os
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from pixellm.checkpoints import Checkpoint
from pixellm.loop import Alone
from pixellm.tiny import tiny_checkpoint
from pixellm.tuning import TunedModel
from tests.photos import load_photos
from tests.test_training_parallel import WORLD, free_port
from tests.training_tables import PHOTOS, photo_rows, put_table
from workers.storage.stores import Anywhere
from workers.training.parallel import Together
from workers.training.plan import DataSet, TrainPlan
from workers.training.start import Bench, start_loop
from workers.training.states import States
from workers.training.validation import start_validation


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
    validation = start_validation(plan, bench, {})
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
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # by itself it asks for the host's name, and may wait
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    try:
        torch.save(score_twice(plan_in(folder, kind), Together()), f"{folder}/{kind}-{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("together")
    (place / "photos").mkdir()
    for photo in load_photos():
        (place / "photos" / photo.name).write_bytes(photo.data)
    rows = [
        replace(row, image_uri=row.image_uri.replace(PHOTOS, f"{place}/photos"))
        for row in photo_rows(2)
    ]
    put_table(Anywhere(), f"{place}/gold", rows)
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
