"""What a run leaves behind: a model or an adapter, with where it comes from."""

import json
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as processes

from pixellm.adapters import load_adapter
from pixellm.checkpoints import Checkpoint, official_state
from pixellm.losses import LossWeights
from pixellm.peers import Alone
from pixellm.tiny import tiny_checkpoint
from pixellm.weights import unpack_tensors
from tests.test_training_parallel import free_port, joined
from tests.test_training_worker import OUTPUT, PLAN, Killed
from tests.test_tuning import learned
from tests.training_tables import memory_table, photo_rows
from workers.storage.memory import MemoryStore
from workers.training.evaluation import Graded
from workers.training.examples import Split
from workers.training.learner import Learner
from workers.training.metrics import Metrics
from workers.training.parallel import Together, share
from workers.training.results import LOSS_STEPS, write_result
from workers.training.start import Bench
from workers.training.states import States
from workers.training.worker import train

ADAPTER = replace(PLAN, result="adapter")


def bench_of(store, plan=PLAN, peers=None, folder=None):
    tiny = tiny_checkpoint(0, max_positions=512)
    checkpoint = Checkpoint(tiny.model, tiny.tokenizer, "ab" * 32)
    return Bench(checkpoint, store, States(store, plan.output, print), peers or Alone(), folder)


def run(plan, store, die_after=None, graded=None, folder=None):
    """What a worker does; returns where the result lies."""
    bench = bench_of(store, plan, folder=folder)
    metrics = Metrics(store, plan.output, 4)

    def hear(report):
        metrics.note(report)
        if report.step % plan.save_every == 0:
            metrics.write()
        if report.step == die_after:
            raise Killed

    return write_result(train(plan, bench, hear).tuned, plan, bench, graded)


def record(store, place):
    return json.loads(store.get(f"{place}/training.json"))


def copy(store, place, folder):
    for info in store.list(place):
        target = folder / info.uri.removeprefix(f"{place}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.get(info.uri))
    return folder


@pytest.fixture(scope="module")
def done():
    """A run that is done, and has written both forms."""
    store = memory_table()
    return store, run(PLAN, store), run(ADAPTER, store)


def test_a_run_that_is_done_gives_the_other_form_too_and_both_are_the_same_model(done, tmp_path):
    store, model, adapter = done
    assert (model, adapter) == (f"{OUTPUT}/model", f"{OUTPUT}/adapter")
    merged = unpack_tensors(store.get(f"{model}/model.safetensors"))
    base = tiny_checkpoint(0, max_positions=512).model
    before = {key: value.clone() for key, value in official_state(base).items()}
    ours = official_state(load_adapter(base, copy(store, adapter, tmp_path / "adapter")))
    assert merged.keys() == ours.keys()
    for key, value in merged.items():
        assert torch.equal(ours[key], value), key
    assert any(not torch.equal(before[key], value) for key, value in merged.items())


def test_the_file_that_makes_a_folder_count_is_written_last(done, monkeypatch):
    written = []
    put = MemoryStore.put
    monkeypatch.setattr(
        MemoryStore, "put", lambda store, uri, data: written.append(uri) or put(store, uri, data)
    )
    tuned, bench = learned(), bench_of(done[0])
    for plan, last in ((PLAN, "model/model.safetensors"), (ADAPTER, "adapter/adapter_config.json")):
        written.clear()
        write_result(tuned, plan, bench)
        assert written[-1] == f"{OUTPUT}/{last}"
        names = {uri.rpartition("/")[2] for uri in written}
        assert {"README.md", "training.json"} < names
    assert f"{OUTPUT}/adapter/light/model.safetensors" in written


def test_the_record_says_what_was_learned_from(done):
    store, model, adapter = done
    found = record(store, model)
    assert (found["steps"], found["examples"]) == (6, 24)
    assert found["runs"] == [["run-1"]]
    assert found["lineage"] == [
        {"model": "tiny", "sha256": "ab" * 32, "data": [], "finished_at": ""}
    ]
    held_out = Split("held_out", PLAN.held_out)
    assert any(held_out.holds(row.image_sha256) for row in photo_rows())
    assert found["passed_over"]["other_side"] > 0
    lines = [
        json.loads(line)
        for info in store.list(f"{OUTPUT}/metrics")
        for line in store.get(info.uri).splitlines()
    ]
    assert found["loss_steps"] == len(lines) == 6 < LOSS_STEPS
    for name, value in found["losses"].items():
        assert value == pytest.approx(sum(line["losses"][name] for line in lines) / 6)
    assert {**record(store, adapter), "finished_at": 0, "plan": 0} == {
        **found,
        "finished_at": 0,
        "plan": 0,
    }


def test_a_run_that_was_killed_counts_what_it_passed_over_as_one_that_was_not(done):
    store = memory_table()
    with pytest.raises(Killed):
        run(PLAN, store, die_after=3)
    assert record(store, run(PLAN, store))["passed_over"] == record(*done[:2])["passed_over"]


def test_only_the_last_losses_make_the_mean_and_other_lines_are_read_over(done, monkeypatch):
    monkeypatch.setattr("workers.training.results.LOSS_STEPS", 2)
    store = memory_table()
    run(PLAN, store)
    file = f"{OUTPUT}/metrics/000000005.jsonl"
    lines = store.get(file).splitlines()
    assert [json.loads(line)["step"] for line in lines] == [5, 6]
    others = [b'{"step": 6, "scores": {"giou": 0.5}}', b"{oops", b"[1]", b'{"losses": {"ce": 1}}']
    store.put(file, b"\n".join([*lines, *others]))
    store.put(f"{OUTPUT}/metrics/notes.txt", b"\xffnot ours\n")
    found = record(store, run(PLAN, store))
    assert found["loss_steps"] == 2
    last = [json.loads(line)["losses"]["ce"] for line in lines]
    assert found["losses"]["ce"] == pytest.approx(sum(last) / 2)


def test_scores_and_the_line_of_descent_stand_on_the_page(done, tmp_path):
    store = done[0]
    (tmp_path / "training.json").write_text(json.dumps(record(store, done[1])))
    place = run(ADAPTER, store, graded=Graded(6, {"giou": 0.5}), folder=tmp_path)
    page = store.get(f"{place}/README.md").decode()
    assert "| giou | 0.5000 |" in page
    assert f"which had learned from `{PLAN.data[0].prefix}`, finished at 20" in page
    assert "* before that from `tiny`" in page
    assert "peft" in page
    assert "More Information Needed" not in page  # PEFT's own page is not ours


# ---- several workers ----


def work(rank, port, folder):
    with joined(rank, port):
        write_adapter_of_parts(rank, folder)


def write_adapter_of_parts(rank, folder):
    tuned = learned()
    model = tuned.model
    layers = [*model.language.model.layers, *model.vision.clip.encoder.layers]
    share(Learner(model, LossWeights()), layers, "fsdp")
    peers = Together()
    if rank == 0:
        tuned.save_adapter(Path(folder), peers.whole)
    else:
        deque(tuned.learned_state(peers.whole), maxlen=0)


@pytest.mark.slow
def test_workers_that_hold_parts_of_the_weights_write_a_whole_adapter(tmp_path):
    processes.spawn(work, (free_port(), str(tmp_path / "parts")), nprocs=2)
    learned().save_adapter(tmp_path / "whole")
    for name in ("adapter_model.safetensors", "light/model.safetensors"):
        parts, whole = ((tmp_path / each / name).read_bytes() for each in ("parts", "whole"))
        assert parts == whole
