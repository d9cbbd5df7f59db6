"""Several workers learn what one would from all of their batches (gloo, on CPUs)."""

import gc
import os
import socket
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn

from pixellm.loop import Loop, Schedule
from workers.training.parallel import Together, share

SCHEDULE = Schedule(steps=6, rate=1e-2, warm_up=2, average=0.5)
ROWS, WORLD, ACCUMULATE = 4, 2, 2


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 6)])
        self.last = nn.Linear(6, 1)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)

    def forward(self, batch):
        values, truth = batch
        hidden = values
        for layer in self.layers:
            hidden = layer(hidden).tanh()
        error = (self.last(hidden + self.frozen(hidden))[:, 0] - truth).square().mean()
        return {"error": error, "size": 0.1 * self.last.weight.square().mean()}


def batch_of(step, number):
    values = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(10 * step + number))
    return values, values.sum(1)


def trained(learner):
    return {name: each for name, each in learner.named_parameters() if each.requires_grad}


def run_alone():
    learner = Small()
    loop = Loop(learner, trained(learner), SCHEDULE)
    reports = []
    while not loop.done:
        reports.append(loop.learn([batch_of(loop.step, at) for at in range(WORLD * ACCUMULATE)]))
    return [report.total for report in reports], loop.state()[0]


@contextmanager
def joined(rank, port):
    """Within it, this process is one of the workers; what has learned must not outlive it."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # by itself it asks for the host's name, and may wait
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    try:
        yield
    finally:
        # DDP that is freed behind its group ends the group, and with it a thread that waits for
        # Python's lock, which it holds meanwhile: seen once to hang for ever
        gc.collect()
        dist.destroy_process_group()


def work(rank, kind, port, folder):
    with joined(rank, port):
        learn_in_parts(rank, kind, folder)


def learn_in_parts(rank, kind, folder):
    results = []
    for stop in (SCHEDULE.steps, 3):
        learner = Small()
        shared = share(learner, list(learner.layers), kind)
        loop = Loop(shared, trained(learner), SCHEDULE, Together())
        results.append(learn(loop, rank, stop))
    tensors, rest = loop.state()
    learner = Small()
    shared = share(learner, list(learner.layers), kind)
    loop = Loop(shared, trained(learner), SCHEDULE, Together())
    loop.restore(tensors, rest)
    results.append(learn(loop, rank, SCHEDULE.steps))
    state = loop.state()[0]
    if rank == 0:
        torch.save((results, state), f"{folder}/results.pt")


def learn(loop, rank, stop):
    totals = []
    while loop.step < stop:
        places = range(rank * ACCUMULATE, (rank + 1) * ACCUMULATE)
        totals.append(loop.learn([batch_of(loop.step, at) for at in places]).total)
    return totals


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_workers_learn_together_what_one_learns_alone_and_go_on_where_they_were(kind, tmp_path):
    processes.spawn(work, (kind, free_port(), str(tmp_path)), nprocs=WORLD)
    (whole, before, after), state = torch.load(tmp_path / "results.pt", weights_only=True)
    totals, alone = run_alone()
    assert whole == pytest.approx(totals, rel=1e-5)
    assert [*before, *after] == whole  # stopped after three steps, and gone on elsewhere
    assert state.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-6)
