"""The part `gpu` of the benchmark, at toy size: what it counts, and what it says of trouble."""

import json
import time
import warnings
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pixellm.answers import DecodeSettings
from pixellm.cutting import cut_masks
from pixellm.engine import finishing
from pixellm.engine.engine import Engine
from pixellm.engine.replays import Replays
from pixellm.model import PixelLM
from pixellm.prompts import prompt_ids
from pixellm.tokenizer import IMAGE_TOKEN_INDEX
from tests.benchmarks import gpu, gpu_cases, gpu_tables, load
from tests.benchmarks.answer_lengths import KINDS, SHAPES, Asked, Forced, make_questions
from tests.benchmarks.ceilings import Ceilings, Clock, measure_ceilings, seconds_between
from tests.benchmarks.flops import PREFIX, QUESTION, Costs, meta_model
from tests.benchmarks.gpu_cases import Case
from tests.benchmarks.gpu_tables import Outcome
from tests.benchmarks.inputs import SEED, make_tokenizer
from tests.benchmarks.load import Feed, Pace, Watch, Window, WrongAnswerError, check, measure
from tests.benchmarks.options import OptionError, Options
from tests.benchmarks.profiling import Line, count_waiting, kernels_of, take_profile, tally
from tests.benchmarks.random_weights import language_bytes, random_checkpoint
from tests.benchmarks.report import ROOT
from tests.benchmarks.roofline import Answered, Sizes, count_work, least_seconds, token_bytes
from tests.benchmarks.speech import tail_of

CPU = torch.device("cpu")
CEILINGS = Ceilings(flops=[1e12], traffic=[1e11])
PACE = Pace(windows=1, seconds=0.07, warm_up=0.03)
NEVER = float("inf")


@pytest.fixture(scope="module")
def setup():
    return gpu.set_up(CPU, torch.float32, CEILINGS, toy=True)


# ---- the model ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_random_model_equals_one_that_is_built_as_usual_with_the_same_weights(dtype):
    config, tokenizer = gpu.toy_config(), make_tokenizer()
    made = random_checkpoint(config, tokenizer, dtype=dtype, device=CPU).model
    torch.set_default_dtype(dtype)
    try:
        usual = PixelLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    usual.load_state_dict(made.state_dict())

    buffers = dict(made.named_buffers())
    assert buffers.keys() == dict(usual.named_buffers()).keys()
    for name, value in usual.named_buffers():
        assert buffers[name].dtype == value.dtype, name
        assert torch.equal(buffers[name], value), name
    with torch.inference_mode():
        answers = [_look_and_read(model, tokenizer) for model in (made, usual)]
    for ours, theirs in zip(*answers, strict=True):
        assert ours.isfinite().all()
        assert ours.std() > 0
        assert torch.equal(ours, theirs)


def _look_and_read(model, tokenizer):
    side = model.config.image_side
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    seen = model.encode_images(pixels, [(side, side // 2)])
    ids = torch.tensor([prompt_ids(tokenizer, "which box is red?", "")])
    image_of = torch.tensor([0])
    hidden = model.read(ids, torch.ones_like(ids), seen, image_of)
    queries = model.codebook(hidden[0, : model.config.group_size])
    return hidden, model.language.lm_head(hidden), model.decode(seen.maps, queries, image_of).logits


def test_the_same_weights_are_made_each_time_and_all_of_them(setup):
    again = random_checkpoint(gpu.toy_config(), make_tokenizer(), dtype=torch.float32, device=CPU)
    weights = setup.checkpoint.model.state_dict()
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
        assert value.isfinite().all(), name
        assert value.any() == (not name.endswith("bias")), name


def test_the_large_model_is_that_of_the_part_flops():
    tokenizer = make_tokenizer()
    config = gpu.seven_billion(tokenizer)
    (question,) = make_questions(tokenizer, config.system_text, QUESTION, 1)
    prompt = prompt_ids(tokenizer, question, config.system_text)
    assert prompt.index(IMAGE_TOKEN_INDEX) + config.image_tokens == PREFIX == 300
    assert len(tail_of(prompt)) == QUESTION == 40
    model = meta_model(config).to(torch.bfloat16)
    assert language_bytes(model) == pytest.approx(13.2e9, rel=0.005)
    assert token_bytes(config, 2) == 512 * 1024


# ---- answers ----


@pytest.mark.parametrize(
    ("kind", "ids", "targets"), [("single", 17, 1), ("muse", 84.25, 3.7), ("long", 248.5, 11)]
)
def test_answers_are_as_long_as_their_kind_says(kind, ids, targets):
    tokenizer = make_tokenizer()
    scripts = [KINDS[kind](tokenizer, np.random.default_rng([SEED, n])) for n in range(256)]
    assert fmean(map(len, scripts)) == pytest.approx(ids, rel=0.03)
    groups = [script.count(tokenizer.seg_ids[0]) for script in scripts]
    assert fmean(groups) == pytest.approx(targets, rel=0.03)
    assert max(map(len, scripts)) < DecodeSettings().max_new_tokens
    assert all(script[-1] == tokenizer.eos_id for script in scripts)
    assert len({len(script) for script in scripts}) > 5  # or all rows would end together


def test_questions_are_as_long_as_they_should_be_and_images_have_as_many(setup):
    asked = setup.asked(Case("muse", 4, 8))
    assert [len(sample.questions) for sample in asked.samples] == [4] * 4
    assert len(asked.scripts) == 16
    for sample in asked.samples:
        for question in sample.questions:
            assert len(tail_of(prompt_ids(setup.checkpoint.tokenizer, question, ""))) == 30
    assert len(setup.asked(Case("muse", 7, 8)).scripts) == 21


def test_the_engine_says_what_it_is_given_and_draws_the_shapes_that_it_is_given(setup):
    with gpu._engine(setup, Case("single", 1, 4)) as (feed, forced, _):
        done = []
        while len(done) < 20:  # more than there are scripts
            done += feed.step()
    rows = [job.rows[0] for job in done]
    assert {row.number for row in rows} >= set(range(16))
    for row in rows:
        assert list(row.answer.token_ids) == list(forced.script_of(row.number))
    frame = setup.images[0]
    (first,) = cut_masks(
        setup.shapes.logits[:1], frame.resized, frame.original, gpu.toy_config().image_side
    )
    masks = [row.answer.targets[0].runs for row in rows]
    assert any(np.array_equal(mask.starts, first.runs.starts) for mask in masks)


def test_shapes_are_of_many_sizes_and_lie_in_the_picture(setup):
    side, frame = gpu.toy_config().image_side, setup.images[0]
    cuts = cut_masks(setup.shapes.logits, frame.resized, frame.original, side)
    areas = np.array([cut.runs.area for cut in cuts]) / np.prod(frame.original)
    assert len(areas) == SHAPES
    assert areas.min() > 0
    assert areas.max() < 0.3
    assert areas.max() > 8 * np.median(areas) / 4
    assert max(len(cut.runs.starts) for cut in cuts) <= frame.original[1] + 1


def test_the_pixel_decoder_is_paid_for_though_its_masks_are_given(setup, monkeypatch):
    model, asked = setup.checkpoint.model, []
    real = model.decoder.forward
    monkeypatch.setattr(model.decoder, "forward", lambda *a: asked.append(len(a[1])) or real(*a))
    with gpu._engine(setup, Case("muse", 1, 1)) as (feed, forced, watch):
        (window,) = measure(feed, forced, watch, PACE, 1)
    assert sum(asked) >= sum(each.targets for each in window.answered) > 0


def test_an_answer_that_was_not_given_is_found_out(setup):
    with gpu._engine(setup, Case("single", 1, 1)) as (feed, forced, _):
        while not (done := feed.step()):
            pass
    other = Forced(setup.checkpoint.model.language.lm_head, [[5, 2]])
    assert check(done[0], forced)[0].targets == 1
    with pytest.raises(WrongAnswerError, match="another answer"):
        check(done[0], other)
    done[0].rows[0].logprobs[0] = float("nan")
    with pytest.raises(WrongAnswerError, match="no numbers"):
        check(done[0], forced)


# ---- arithmetic ----


def test_bytes_of_a_toy_are_those_counted_by_hand(setup):
    config = gpu.toy_config()
    hidden, inner, layers, vocabulary = 48, 64, 2, int(config.llama["vocab_size"])
    layer = 4 * hidden * hidden + 3 * hidden * inner + 2 * hidden
    numbers = layers * layer + hidden + vocabulary * hidden
    assert language_bytes(setup.checkpoint.model) == 4 * numbers
    assert token_bytes(config, 4) == 2 * layers * hidden * 4
    sizes = Sizes(weights=1000, token=10, prefix=7)
    assert sizes.must_read([3, 5], pictures=2) == 1000 + 10 * (3 + 5 + 2 * 7)
    assert setup.yardstick.sizes.prefix == 16 + prompt_ids(make_tokenizer(), "", "").index(
        IMAGE_TOKEN_INDEX
    )


def test_what_steps_must_read_is_counted_as_the_rows_grow(setup):
    model, tokenizer = setup.checkpoint.model, setup.checkpoint.tokenizer
    asked = setup.asked(Case("muse", 1, 1))
    only = Asked(asked.samples[:1], asked.scripts[:1])
    forced = Forced(model.language.lm_head, only.scripts)
    engine = Engine(setup.checkpoint, predict=forced)
    watch = Watch(engine, Clock(CPU), setup.yardstick.sizes)
    feed, window = Feed(engine, only, backlog=0), Window()
    with watch.attached():
        while not feed.step():
            pass
    watch.collect(window)

    prompt = prompt_ids(tokenizer, only.samples[0].questions[0], "")
    reads, said = [0], 0  # what was read before each step
    script = only.scripts[0]
    while said < len(script) - 1:  # the last id is never read
        group = script[said] == tokenizer.seg_ids[0]
        reads.append(len(tail_of(prompt)) + said)
        said += len(tokenizer.seg_ids) if group else 1
    assert window.must_read == sum(setup.yardstick.sizes.must_read([read], 1) for read in reads)
    assert window.rows == len(reads)


def test_operations_are_those_counted_by_hand():
    costs = Costs(
        vision=1000.0,
        image_projector=100.0,
        mask_projector=200.0,
        maps=50.0,
        prefix=5000.0,
        question=700.0,
        first_id=20.0,
        later=2.0,
        codebook=3.0,
        target=4.0,
    )
    work = count_work(costs, 2, [Answered(4, 1, 9), Answered(3, 2, 9), Answered(1, 0, 0)])
    assert work.images == 2 * 6350
    assert work.questions == 3 * 700
    assert work.decode == (20 + 22 + 24) + (20 + 22)
    assert work.masks == 3 * 7
    assert work.total == 12700 + 2100 + 108 + 21


def test_the_least_time_is_what_the_tighter_ceiling_leaves():
    work = count_work(Costs(*[0.0] * 5, 700.0, 20.0, 0.0, 0.0, 0.0), 0, [Answered(6, 0, 0)])
    assert (work.total, work.decode) == (800, 100)
    ceilings = Ceilings(flops=[50.0, 100.0, 900.0], traffic=[10.0])
    assert least_seconds(work, 5, 30.0, ceilings) == 7 + 3.0  # bytes
    assert least_seconds(work, 5, 5.0, ceilings) == 7 + 1.0  # operations
    assert least_seconds(work, 0, 0.0, ceilings) == 8


def test_the_least_time_is_that_of_the_notes_when_ceilings_are_those_of_an_h100():
    config = gpu.seven_billion(make_tokenizer())
    costs, sizes = gpu.count_costs(config, PREFIX, QUESTION), Sizes(13_200_000_000, 524_288, PREFIX)
    rows, steps = 64, 66  # of an answer of 84 ids, since groups are read at once
    work = count_work(costs, rows, [Answered(84, 3.7, 0)] * rows)
    must_read = steps * sizes.must_read([QUESTION + 42] * rows, rows)
    least = least_seconds(work, steps, must_read, Ceilings([989e12], [3.35e12]))
    assert rows / least == pytest.approx(74.7, rel=0.01)


def test_ceilings_are_rates_of_each_run():
    ceilings = measure_ceilings(CPU, torch.float32, toy=True)
    assert len(ceilings.flops) == len(ceilings.traffic) == 20
    assert 1e8 < ceilings.flop_rate < 1e14
    assert 1e8 < ceilings.byte_rate < 1e13
    clock = Clock(CPU)
    marks = [clock.mark() for _ in range(3)]
    assert all(seconds_between(*pair) >= 0 for pair in pairwise(marks))


# ---- watching, and tables ----


def test_sections_make_up_the_time_and_nothing_stays_wrapped(setup):
    model = setup.checkpoint.model
    before = finishing.cut_masks, dict(vars(model.language)), dict(vars(model))
    with gpu._engine(setup, Case("muse", 4, 8)) as (feed, forced, watch):
        (window,) = measure(feed, forced, watch, PACE, 8)
    assert Replays.__call__.__name__ == "__call__"
    assert before == (finishing.cut_masks, dict(vars(model.language)), dict(vars(model)))
    assert sum(window.sections.values()) == pytest.approx(window.seconds)
    zero = {name for name, seconds in window.sections.items() if not seconds}
    assert zero == {"pictures ahead"}  # a CPU is at one thing at a time
    assert window.seconds >= sum(window.steps)
    assert window.images * 4 == len(window.answered) > 0
    assert 4 < window.rows / len(window.steps) <= 8


def test_steps_that_are_replayed_are_watched_too(setup):
    with gpu._engine(setup, Case("muse", 1, 8, replay=True)) as (feed, forced, watch):
        (window,) = measure(feed, forced, watch, PACE, 8)
        assert feed.engine.generator._run._recordings
    assert window.sections["steps"] > 0
    assert window.must_read > len(window.steps) * setup.yardstick.sizes.weights


def test_a_row_says_what_was_measured(setup):
    window = Window(
        images=10,
        answered=[Answered(80, 4, 400)] * 10,
        steps=[0.01] * 90 + [0.05] * 10,
        rows=400,
        sections=dict.fromkeys(gpu_tables.SHARES, 0.25),
        must_read=int(0.25e11),
        recorded=3,
        seconds=2.0,
    )
    outcome = Outcome(Case("muse", 1, 4), (window,), 3 * 10**9, 4 * 10**9, 0)
    row = gpu_tables.make_row(outcome, setup.yardstick)
    cells = dict(zip(gpu_tables.COLUMNS, row, strict=True))
    assert cells["rows"] == "4"
    assert cells["under way"] == "4.0"
    assert cells["images per s"] == cells["questions per s"] == "5.00 (5.00–5.00)"
    assert (cells["ids"], cells["targets"], cells["runs a mask"]) == ("80.0", "4.00", "100")
    assert (cells["steps"], cells["recorded"]) == ("100", "3")
    assert (cells["ms a step"], cells["peak GB"]) == ("10.0", "3.00")
    assert cells["bytes/s in steps, % of ceiling"] == "50.0"
    work = count_work(setup.yardstick.costs, 10, window.answered)
    share = float(cells["FLOP/s, % of ceiling"])
    assert share == pytest.approx(100 * work.total / 2 / 1e12, abs=0.051)
    shares = gpu_tables.shares_table("x", [outcome]).rows[0]
    assert shares == ["4", *["12.5"] * len(gpu_tables.SHARES)]


def test_the_goal_is_set_beside_what_was_found(setup):
    window = Window(1, [Answered(5, 1, 1)], [0.1], 1, dict.fromkeys(gpu_tables.SHARES, 0.1), 9, 0.1)
    outcomes = [Outcome(Case("muse", 1, rows), (window,) * rows, 0, 0, 0) for rows in (1, 0)]
    large = replace(setup.yardstick, toy=False)
    notes = gpu_tables.cases_table("x", outcomes, large).notes
    assert "Goal: 45 images per s on one H100. Found: 10.0 with 1 rows, 0.222 of it." in notes
    assert "nothing was measured" in gpu_tables.cases_table("x", outcomes[1:], large).notes[-1]
    toy = gpu_tables.cases_table("x", outcomes, setup.yardstick)
    assert not any("Goal" in note for note in toy.notes)


# ---- trouble ----


def breaks(monkeypatch, most):
    """Memory runs out with more than so many rows."""
    real = Forced.__call__

    def call(self, states, wanted):
        if len(wanted) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(self, states, wanted)

    monkeypatch.setattr(Forced, "__call__", call)


def test_a_case_that_runs_out_of_memory_is_a_row_that_says_so(setup, monkeypatch):
    breaks(monkeypatch, most=0)
    outcome = gpu.run_case(setup, Case("muse", 1, 8), PACE, NEVER)
    assert outcome.windows == ()
    assert "not even alone: CUDA out of memory" in outcome.trouble
    table = gpu_tables.cases_table("x", [outcome], setup.yardstick)
    assert table.rows[0][-1] == outcome.trouble
    assert table.rows[0][1] == "–"
    assert not table.failures
    monkeypatch.undo()
    assert gpu.run_case(setup, Case("muse", 1, 8), PACE, NEVER).windows, "the next one runs"


def test_memory_that_the_engine_gets_over_is_said_too(setup, monkeypatch):
    breaks(monkeypatch, most=14)
    times = iter([0, 3])
    monkeypatch.setattr(gpu, "out_of_memory_errors", lambda _: next(times))
    outcome = gpu.run_case(setup, Case("single", 1, 16), PACE, NEVER)
    assert outcome.windows
    assert outcome.trouble == "memory ran out 3 times, and the engine went on with fewer rows"


def test_a_wrong_answer_fails_the_run(setup, monkeypatch):
    monkeypatch.setattr("tests.benchmarks.load.check", find_fault)
    outcome = gpu.run_case(setup, Case("single", 1, 2), PACE, NEVER)
    assert "another answer" in outcome.wrong
    (failure,) = gpu_tables.cases_table("x", [outcome], setup.yardstick).failures
    assert failure.startswith("single/1/2")


def find_fault(*_):
    raise WrongAnswerError("question 0 has another answer than it was given")


def test_other_errors_are_not_hidden(setup, monkeypatch):
    def call(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(Forced, "__call__", call)
    with pytest.raises(RuntimeError, match="something else"):
        gpu.run_case(setup, Case("muse", 1, 2), PACE, NEVER)


def test_a_model_in_bf16_answers_as_it_is_given(setup):
    half = gpu.set_up(CPU, torch.bfloat16, CEILINGS, toy=True)
    outcome = gpu.run_case(half, Case("muse", 1, 4), PACE, NEVER)
    assert outcome.windows
    assert not outcome.trouble
    assert half.yardstick.sizes.token == setup.yardstick.sizes.token // 2


def test_a_case_that_comes_too_late_is_a_row_that_says_so(setup):
    outcome = gpu.run_case(setup, Case("muse", 1, 2), PACE, 0.0)
    assert outcome.trouble == "not run: the time was up"
    assert gpu_tables.make_row(outcome, setup.yardstick)[-1] == outcome.trouble
    assert gpu_tables.shares_table("x", [outcome]).rows[0][1] == "–"


def test_cases_are_chosen_by_name():
    chosen = gpu_cases.choose_cases(None, toy=False)
    assert list(map(str, chosen[:3])) == ["muse/1/1", "muse/1/1/replay", "muse/1/4"]
    assert {gpu_cases.MAIN, replace(gpu_cases.MAIN, replay=True)} < set(chosen)
    assert len(set(chosen)) == len(gpu_cases.PLAIN) + len(gpu_cases.REPLAYED)
    shipped = gpu_cases.choose_cases(("shipped",), toy=True)  # the part engine's
    assert shipped == gpu_cases.choose_cases(None, toy=True)
    assert gpu_cases.choose_cases(("long/4/64",), toy=False) == [Case("long", 4, 64)]
    assert gpu_cases.choose_cases(("long/4/6/replay",), toy=False) == [
        Case("long", 4, 6, replay=True)
    ]
    assert len(gpu_cases.choose_cases(("full",), toy=False)) == 3 * 3 * 6 * 2
    for wrong in ("longer/4/64", "long/4", "long/4/x", "long/0/4", "long/4/8/again", "huge"):
        with pytest.raises(OptionError, match=f"--models {wrong}"):
            gpu_cases.choose_cases((wrong,), toy=False)


# ---- from inside ----


def test_lines_that_wait_are_counted_by_their_place():
    def warning(text, file, line):
        return warnings.WarningMessage(text, UserWarning, file, line)

    sync = "called a synchronizing CUDA operation (Triggered internally at ...)"
    assert tally(
        [
            warning(sync, f"{ROOT}/pixellm/engine/steps.py", 7),
            warning(sync, torch.__file__, 9),
            warning(sync, torch.__file__, 9),
            warning("something else", "a.py", 1),
        ]
    ) == {"torch/__init__.py:9": 2, "pixellm/engine/steps.py:7": 1}


def test_kernels_of_a_gpu_are_counted_once_though_operations_have_their_time_too():
    def event(key, device, us, count, annotation=False):
        return SimpleNamespace(
            key=key,
            device_type=SimpleNamespace(name=device),
            self_device_time_total=us,
            count=count,
            is_user_annotation=annotation,
        )

    events = [
        event("aten::mm", "CPU", 3000.0, 4),
        event("gemm_kernel", "CUDA", 3000.0, 4),
        event("ProfilerStep", "CUDA", 9000.0, 1, annotation=True),
    ]
    assert kernels_of(events) == [Line("gemm_kernel", 0.003, 4)]


class FakeEvent:
    """A moment in a stream, of which a GPU would say after a while when it was."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream):
        FakeEvent.now += 250.0
        self.at = FakeEvent.now

    def elapsed_time(self, end):
        return end.at - self.at


def test_on_a_gpu_moments_are_events_in_its_stream_and_counted_in_seconds(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    clock = Clock(torch.device("cuda", 0))
    start, stop = clock.mark(), clock.mark()
    assert not waited
    clock.wait()
    assert waited == [torch.device("cuda", 0)]
    assert seconds_between(start, stop) == 0.25


def test_waiting_is_counted_only_while_it_is_looked_for(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    step = SimpleNamespace(step=lambda: warnings.warn("a synchronizing operation", stacklevel=1))
    (place,) = count_waiting(step, SimpleNamespace(on_gpu=True), steps=3).items()
    assert modes == ["warn", "default"]
    assert place[0].startswith("tests/test_benchmarks_gpu.py:")
    assert place[1] == 3
    assert count_waiting(step, Clock(CPU)) == {}


def test_a_profile_without_a_gpu_says_so(setup):
    with gpu._engine(setup, gpu_cases.TOY_MAIN) as (feed, _, _):
        profile = take_profile(feed, Clock(CPU), steps=3)
    assert (profile.busy, profile.kernels, profile.steps) == (None, 0, 3)
    assert len(profile.lines) == 15
    assert "self_cpu_time_total" in profile.text
    table = gpu_tables.profile_table("x", gpu_cases.TOY_MAIN, profile)
    assert any("There is no GPU" in note for note in table.notes)
    busy = gpu_tables.profile_table("x", gpu_cases.MAIN, replace(profile, busy=0.03, watched=0.06))
    assert any("worked 10.00 ms a step: 50.0 %" in note for note in busy.notes)


@pytest.mark.slow
def test_the_whole_part_runs_on_toys(tmp_path):
    options = Options(repetitions=2, toy=True, output=tmp_path)
    tables = list(gpu.run(options))
    assert not [failure for table in tables for failure in table.failures]
    assert [len(table.rows) for table in tables] == [4, 3, 3, 1, 1, 1, 1, 1, 15, 1, 15]
    lines = (tmp_path / gpu.FILE).read_text().splitlines()
    assert len(lines) == 5
    assert json.loads(lines[0])["case"] == {
        "kind": "muse",
        "instructions": 1,
        "rows": 1,
        "replay": False,
    }
    for name in ("gpu_profile.txt", "gpu_profile_replay.txt"):
        assert "by self_cpu_time_total" in (tmp_path / name).read_text()


@pytest.mark.parametrize(
    ("recorded", "until", "runs"),
    [([3, 5, 5, 6], 9, 3), ([0, 0], 9, 1), ([1, 2, 3], 1, 2)],
    ids=["until none is new", "nothing is recorded", "the time is up"],
)
def test_a_warm_up_lasts_until_no_step_had_to_be_recorded(recorded, until, runs, monkeypatch):
    generator, seen = SimpleNamespace(recorded=0), []

    def run(*_):
        generator.recorded = recorded[len(seen)]
        seen.append(1)

    monkeypatch.setattr(load, "_run", run)
    monkeypatch.setattr(time, "perf_counter", lambda: len(seen))
    load._warm_up(SimpleNamespace(engine=SimpleNamespace(generator=generator)), None, 8, until)
    assert len(seen) == runs
