"""The benchmark of the whole job: its arithmetic, its sleeping model, and small runs of it."""

import asyncio
import json
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from pixellm.engine.rows import Sample
from pixellm.images import PreparedImage
from tests.benchmarks import line, line_loads, line_tables, memory
from tests.benchmarks.clocked import Clocked, Sleeping
from tests.benchmarks.inputs import SHIPPED
from tests.benchmarks.line_loads import Load
from tests.benchmarks.line_tables import Racer, Shares, Turn
from tests.benchmarks.memory import MIB, Driven
from tests.benchmarks.notes import ReplicaNotes
from tests.benchmarks.options import OptionError, Options
from tests.benchmarks.watched import peak_memory
from workers.model_thread import ModelThread

IMAGE = PreparedImage(torch.zeros(3, 1, 1), (1, 1), (1, 1))
NOTES = ReplicaNotes(
    ready=100.0,
    questions=50,
    first=101.0,
    last=108.0,
    model_seconds=6.0,
    model_cpu=5.0,
    all_cpu=8.0,
)


# ---- models ----


def test_a_sleeping_model_answers_one_question_a_step_and_samples_in_their_order():
    model = Sleeping(0.0)
    jobs = [model.add(Sample(IMAGE, tuple("ab"[:count]))) for count in (2, 1)]
    assert model.busy
    assert [model.step() for _ in range(3)] == [[], [jobs[0]], [jobs[1]]]
    assert not model.busy
    answers = [row.answer for job in jobs for row in job.rows]
    assert all(answer and not answer.targets and not answer.malformed for answer in answers)


def test_a_sleeping_model_takes_as_many_at_once_as_it_is_told_and_sleeps_as_long_over_fewer():
    model, seconds = Sleeping(0.01, most=3), []
    jobs = [model.add(Sample(IMAGE, tuple("abcd"[:count]))) for count in (2, 4, 1)]
    done, in_step = [], []
    while model.busy:
        started = time.perf_counter()
        done.append(model.step())
        seconds.append(time.perf_counter() - started)
        in_step.append(model.in_step)
    assert done == [[jobs[0]], [jobs[1]], [jobs[2]]]
    assert in_step == [3, 3, 1]
    assert all(took >= 0.03 for took in seconds)  # also with one


def test_a_sleeping_model_forgets_what_is_abandoned():
    model = Sleeping(0.0)
    model.add(Sample(IMAGE, ("a",)))
    model.abandon()
    assert not model.busy


def test_a_clocked_model_answers_in_the_thread_of_a_replica_and_tells_its_time():
    model = Clocked(Sleeping(0.001))

    async def ask() -> list[int]:
        thread = ModelThread(model)
        replies = await asyncio.gather(*(thread.ask(Sample(IMAGE, tuple("abc"))) for _ in range(5)))
        thread.close()
        return list(map(len, replies))

    assert asyncio.run(asyncio.wait_for(ask(), 20)) == [3] * 5
    notes = model.notes(ready=1.0, cpu=2.0)
    assert (notes.ready, notes.questions, notes.all_cpu) == (1.0, 15, 2.0)
    assert notes.model_seconds >= 15 * 0.001
    assert 1.0 < notes.first < notes.last


def test_no_more_samples_are_under_way_alone_than_are_allowed():
    class Counting(Sleeping):
        most = 0

        def step(self):
            self.most = max(self.most, len(self._line))
            return super().step()

    model, samples = Counting(0.0), [Sample(IMAGE, ("a",)) for _ in range(7)]
    assert [job.sample for job in line.answer_in_turn(model, samples, 3)] == samples
    assert model.most == 3


# ---- arithmetic ----


def load_of(folder, questions, *, asleep: int) -> Load:
    lines = [
        json.dumps({"image": f"{at}.jpg", "instructions": q}) for at, q in enumerate(questions)
    ]
    (folder / line_loads.LIST).write_text("\n".join(lines))
    return Load("x", folder, folder, asleep=asleep, shard=1, tokens=1)


def racer(name, *seconds, targets=100) -> Racer:
    made = Racer(name, lambda: pytest.fail("it has had its turns"))
    made.turns = [Turn([NOTES, NOTES], 100.0 + each, targets) for each in seconds]
    return made


def test_a_turn_lasts_from_when_its_replicas_were_ready_on_average():
    turn = Turn([NOTES, replace(NOTES, ready=104.0)], 112.0, 0)
    assert turn.seconds == 10.0


def test_the_shares_of_a_turn_are_all_of_it():
    shares = Shares.of(Turn([NOTES, NOTES], 110.0, 0))
    assert (shares.model, shares.before, shares.after) == pytest.approx((0.6, 0.1, 0.2))
    assert shares.between == pytest.approx(0.1)


def test_what_a_sleeping_model_needs_at_best_is_known(tmp_path):
    load = load_of(tmp_path, [["a"], ["b", "c", "d"]], asleep=1)
    assert line_tables.ideal_seconds(load) == pytest.approx(4 * 0.005 / 2)
    assert line_tables.ideal_seconds(replace(load, replicas=1)) == pytest.approx(4 * 0.005)


def test_ratios_are_taken_within_a_repetition(tmp_path):
    load = load_of(tmp_path, [["a"], ["b", "c", "d"]], asleep=0)
    table = line_tables.make_table(
        load, racer("model alone", 8.0, 16.0), racer("whole job", 10.0, 32.0)
    )
    alone, job = table.rows
    assert alone == ["model alone", "2", "4", "12.0 (8.00–16.0)", "0.188 (0.125–0.250)",
                     "1.00 (1.00–1.00)"]  # fmt: skip
    assert job[-1] == "0.650 (0.500–0.800)"
    assert table.raw == {"model alone": [8.0, 16.0], "whole job": [10.0, 32.0]}
    assert len(table.columns) == 6
    assert not table.failures


def test_a_job_with_a_sleeping_model_is_measured_by_the_ideal_too(tmp_path):
    load = load_of(tmp_path, [["a"]] * 400, asleep=1)
    table = line_tables.make_table(load, racer("model alone", 1.25), racer("whole job", 2.0))
    assert table.columns[-1] == "of the ideal"
    assert [row[-1].partition(" ")[0] for row in table.rows] == ["0.800", "0.500"]


def test_a_job_that_finds_other_masks_has_failed(tmp_path):
    load = load_of(tmp_path, [["a"]], asleep=0)
    alone, job = racer("model alone", 1.0), racer("whole job", 1.0, targets=90)
    assert line_tables.make_table(load, alone, job).failures == ["100 masks alone, 90 in the job"]
    job.turns[0] = replace(job.turns[0], targets=99)
    assert not line_tables.make_table(load, alone, job).failures


def test_what_a_question_and_a_record_cost_stands_beside_the_shares(tmp_path):
    load = load_of(tmp_path, [["a"]] * 100, asleep=0)
    (row,) = line_tables.make_shares(load, [racer("whole job", 10.0)]).rows
    # two replicas: 12 s in the model for 100 questions, 10 of them on a processor; 6 s besides
    assert row == ["whole job", "–", "–", "60.0", "10.0", "10.0", "20.0", "120.00", "100.00",
                   "60.00", "0.625"]  # fmt: skip


def test_memory_is_compared_with_that_of_the_first_run():
    runs = [Driven(1_000, 500 * MIB, 100.0, 10.0), Driven(100_000, 600 * MIB, 250.0, 410.0)]
    few, many = memory.make_table(runs).rows
    assert few == ["1,000", "500", "1.00", "100", "10"]
    assert many == ["100,000", "600", "1.20", "250", "410"]


def test_the_memory_of_a_process_is_what_it_had_at_most():
    before = peak_memory()
    held = bytearray(64 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    del held
    assert peak_memory() >= before
    assert peak_memory() > 64 * MIB


# ---- small runs ----


@pytest.fixture
def threads():
    """As many as there were, also for the tests behind this one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("make", line.LOADS.values())
def test_half_of_the_records_are_answered_by_each_of_two(make, tmp_path):
    load = make(tmp_path, toy=True)
    done = [line.answer_share(load, share) for share in (0, 1)]
    asked = [len(questions) for _, questions in load.records()]
    assert [notes.questions for notes, _ in done] == [sum(asked[::2]), sum(asked[1::2])]
    assert any(targets for _, targets in done) == (not load.asleep)
    notes, _ = line.answer_share(replace(load, replicas=1), 0)
    assert notes.questions == sum(asked)


def test_loads_are_chosen_by_name():
    assert line.choose_loads(None) == list(line.LOADS.values())
    assert line.choose_loads(("sleeping", "middle")) == [
        line_loads.make_sleeping,
        line_loads.make_large,
    ]
    assert line.choose_loads(("own",)) == list(line.LOADS.values())  # the part engine's
    with pytest.raises(OptionError, match="--models midle: known are shipped, middle, sleeping"):
        line.choose_loads(("midle",))


@pytest.mark.slow
@pytest.mark.ray
def test_the_line_is_measured_on_toys():
    # the other loads answer in tests of their own: a job takes half a minute to start
    tables = list(line.run(Options(repetitions=1, toy=True, models=("shipped",), replicas=1)))
    assert [len(table.rows) for table in tables] == [2, 2]
    assert not any(table.failures for table in tables)
    assert all(len(seconds) == 1 for seconds in tables[0].raw.values())
    assert "1 replica" in tables[0].title


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("at_once", [1, 16])
def test_a_replica_that_is_ready_later_finds_shards_left(tmp_path, at_once):
    """Six shards, which together would fit into the hands of the first one."""
    Image.new("RGB", (32, 24)).save(tmp_path / "a.png")
    record = {"image": "a.png", "instructions": [f"the thing number {at}" for at in range(400)]}
    (tmp_path / line_loads.LIST).write_text(6 * f"{json.dumps(record)}\n")
    load = Load("x", tmp_path, SHIPPED, asleep=at_once, shard=1, tokens=20)
    turn = line.run_job(load)
    assert len(turn.replicas) == 2
    assert all(each.questions >= 400 for each in turn.replicas)


@pytest.mark.slow
@pytest.mark.ray
def test_the_memory_of_a_driver_is_measured(monkeypatch):
    few = memory.drive(memory.TOY_FEW)
    assert few.shards == 20
    assert 100 * MIB < few.peak < 1_000 * MIB
    many = Driven(memory.TOY_MANY, few.peak, few.pace, few.seconds)
    monkeypatch.setattr(memory, "drive", {few.shards: few, many.shards: many}.get)
    (table,) = memory.run(Options(toy=True))
    assert [row[0] for row in table.rows] == ["20", "200"]
