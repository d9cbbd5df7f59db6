"""What only a GPU can show: the same answers, recorded steps, scarce memory, and learning on CUDA.

Skipped where there is none. Nothing here needs a network, Ray or a bucket; on one H100 all of it
takes two minutes.
"""

import asyncio
import gc
import json
import math
import subprocess
import sys
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import pixellm
from pixellm.answers import DecodeSettings
from pixellm.checkpoints import Checkpoint, load_checkpoint, official_state
from pixellm.cutting import cut_masks
from pixellm.drawn.questions import ask
from pixellm.drawn.recipe import STAGES, Recipe, small_schedule
from pixellm.drawn.scenes import TEST_SEEDS, draw_scene, render
from pixellm.engine.engine import Engine
from pixellm.engine.memory import GPU_SHARE, Limits
from pixellm.engine.rows import Sample
from pixellm.images import prepare_image
from pixellm.kernel_choice import kernels_fit
from pixellm.learners import Tuning
from pixellm.loop import Schedule
from pixellm.masks import postprocess_masks
from pixellm.peers import Alone
from pixellm.run_lengths import RunMask
from pixellm.tiny import tiny_checkpoint
from tests.training_tables import memory_table, put_local_photos
from workers.doctor.devices import check_devices
from workers.doctor.findings import Outcome
from workers.drawn.plan import DrawnPlan
from workers.drawn.training import DrawnTraining
from workers.model_thread import ModelThread
from workers.storage.memory import MemoryStore
from workers.training.evaluation import Evaluation
from workers.training.plan import DataSet, TrainPlan
from workers.training.start import Bench
from workers.training.states import States
from workers.training.worker import train, work

pytestmark = [
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="there is no GPU here that torch sees through CUDA"
    ),
    # libraries warn of other things on a GPU than where all warnings were looked at
    pytest.mark.filterwarnings("default"),
]

DEVICE = torch.device("cuda")
SHIPPED = Path(pixellm.__file__).parent / "shipped" / "drawn"
SETTINGS = DecodeSettings(max_new_tokens=80)
SCENES, QUESTIONS = 24, 4
SINGLE, HALF = torch.float32, torch.bfloat16


@pytest.fixture(autouse=True, scope="module")
def exact():
    """Single precision as on a CPU: torch lets convolutions round to TF32 unless it is told."""
    if DEVICE.type != "cuda":
        yield
        return
    places = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "ieee"
    yield
    for place, was in zip(places, before, strict=True):
        place.fp32_precision = was


@cache
def shipped(device: torch.device, dtype: torch.dtype) -> Checkpoint:
    return load_checkpoint(SHIPPED, dtype=dtype, device=device)


@cache
def scenes() -> tuple[Sample, ...]:
    side, made = shipped(torch.device("cpu"), SINGLE).model.config.image_side, []
    for seed in TEST_SEEDS[:SCENES]:
        scene, rng = draw_scene(seed), np.random.default_rng([7, seed])
        image = prepare_image(render(scene, side, side).rgb, side)
        made.append(Sample(image, tuple(ask(scene, rng).text for _ in range(QUESTIONS))))
    return tuple(made)


def engine_on(device, dtype, *, replay=False, limits=None):
    return Engine(shipped(device, dtype), SETTINGS, limits, replay=replay)


def answers_of(engine):
    return [answer for answers in engine.answer(scenes()) for answer in answers]


@pytest.fixture(scope="module")
def on_cpu():
    return answers_of(engine_on(torch.device("cpu"), SINGLE))


def iou(one, other):
    either = (one.mask | other.mask).sum()
    return (one.mask & other.mask).sum() / either if either else 1.0


def differing(some, others, least_iou):
    """Numbers of the answers that say something else, or have other masks."""
    return [
        number
        for number, (one, other) in enumerate(zip(some, others, strict=True))
        if one.token_ids != other.token_ids
        or any(iou(*pair) < least_iou for pair in zip(one.targets, other.targets, strict=True))
    ]


def bytes_of(answers):
    """All that answers hold, to the last bit."""
    return [
        (answer.token_ids, [(t.runs.counts.tobytes(), t.score_mask) for t in answer.targets])
        for answer in answers
    ]


# ---- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("replay", [False, True], ids=["plain", "replayed"])
def test_a_gpu_says_in_single_precision_what_a_cpu_says(replay, on_cpu):
    said = answers_of(engine_on(DEVICE, SINGLE, replay=replay))
    assert differing(said, on_cpu, least_iou=0.999) == []
    for one, other in zip(said, on_cpu, strict=True):
        for target, same in zip(one.targets, other.targets, strict=True):
            assert target.score_mask == pytest.approx(same.score_mask, abs=1e-3)
            assert target.score_token == pytest.approx(same.score_token, abs=1e-3)
    assert sum(len(answer.targets) for answer in said) > SCENES


def test_a_gpu_says_the_same_without_the_kernels_that_it_has(monkeypatch, on_cpu):
    assert kernels_fit(DEVICE, width=32)
    for module in ("pixellm.engine.generation", "pixellm.language"):
        monkeypatch.setattr(f"{module}.kernels_fit", lambda *_, **__: False)
    said = answers_of(engine_on(DEVICE, SINGLE, replay=True))
    assert differing(said, on_cpu, least_iou=0.999) == []


@pytest.mark.parametrize("replay", [False, True], ids=["plain", "replayed"])
def test_a_gpu_says_the_same_where_questions_stand_together_and_pictures_are_seen_ahead(
    replay, monkeypatch, on_cpu
):
    monkeypatch.setattr("pixellm.engine.sharing.PROGRAMS", 1)
    engine = engine_on(DEVICE, SINGLE, replay=replay, limits=Limits(rows=24))
    encode, streams = engine.model.encode_images, []

    def noted(*images):
        streams.append(torch.cuda.current_stream(DEVICE))
        return encode(*images)

    monkeypatch.setattr(engine.model, "encode_images", noted)
    assert differing(answers_of(engine), on_cpu, least_iou=0.999) == []
    assert [at != torch.cuda.default_stream(DEVICE) for at in streams[:2]] == [False, True]


def test_a_gpu_says_what_a_cpu_says_where_each_question_has_a_picture_of_its_own(replays, caplog):
    alone = [Sample(each.image, each.questions[:1]) for each in scenes()]
    cpu = torch.device("cpu")
    here = [answer for (answer,) in engine_on(cpu, SINGLE).answer(alone)]
    engine = engine_on(DEVICE, SINGLE, replay=True)
    there = [answer for (answer,) in engine.answer(alone)]
    assert differing(there, here, least_iou=0.999) == []
    assert_recorded(engine, replays, caplog)


@pytest.fixture
def replays(monkeypatch):
    """A number for each graph that was replayed."""
    replayed, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: (replayed.append(1), replay(graph))[1]
    )
    return replayed


def assert_recorded(engine, replays, caplog):
    assert "can't be recorded" not in caplog.text
    assert 0 < engine.generator.recorded < len(replays)


@pytest.mark.parametrize("dtype", [SINGLE, HALF], ids=["fp32", "bf16"])
def test_steps_that_are_alike_are_recorded_as_graphs_and_replayed(dtype, replays, caplog):
    engine = engine_on(DEVICE, dtype, replay=True)
    answers_of(engine)
    assert_recorded(engine, replays, caplog)
    before, recorded = len(replays), engine.generator.recorded
    answers_of(engine)
    assert len(replays) > before
    assert engine.generator.recorded < 2 * recorded  # most steps were known from the first time
    assert_recorded(engine, replays, caplog)


@pytest.mark.parametrize("dtype", [SINGLE, HALF], ids=["fp32", "bf16"])
def test_a_recorded_step_computes_to_the_last_bit_what_it_would_if_it_was_run(dtype, monkeypatch):
    recorded = bytes_of(answers_of(engine_on(DEVICE, dtype, replay=True)))
    monkeypatch.setattr("pixellm.engine.generation.recorder_for", lambda _: lambda work: work)
    run = bytes_of(answers_of(engine_on(DEVICE, dtype, replay=True)))
    assert recorded == run


def test_recordings_read_the_weights_that_there_are_now():
    checkpoint = load_checkpoint(SHIPPED, dtype=SINGLE, device=DEVICE)
    engine = Engine(checkpoint, SETTINGS, replay=True)
    before = answers_of(engine)
    with torch.no_grad():
        checkpoint.model.language.model.layers[0].self_attn.v_proj.weight.mul_(1.5)
    after = answers_of(engine)
    fresh = answers_of(Engine(checkpoint, SETTINGS, replay=True))
    assert differing(after, fresh, least_iou=0.999) == []
    assert differing(after, before, least_iou=0.999) != []


def test_in_half_precision_padded_steps_say_the_same_but_for_its_rounding(on_cpu):
    plain = answers_of(engine_on(DEVICE, HALF))
    replayed = answers_of(engine_on(DEVICE, HALF, replay=True))
    # products of other shapes are added up in another order: an answer in a hundred may turn
    assert len(differing(replayed, plain, least_iou=0.95)) <= 0.05 * len(plain)
    assert len(differing(plain, on_cpu, least_iou=0.8)) <= 0.15 * len(plain)


def test_steps_are_recorded_while_other_threads_look_at_the_memory(replays, caplog, on_cpu):
    """As replicas do: whatever thread is done with something tells how much memory is free."""
    over = threading.Event()

    def look():
        while not over.wait(1e-3):
            Limits.of_device(DEVICE)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        engine = engine_on(DEVICE, SINGLE, replay=True, limits=Limits(rows=16))
        said = answers_of(engine)
    finally:
        over.set()
        thread.join()
    assert differing(said, on_cpu, least_iou=0.999) == []
    assert_recorded(engine, replays, caplog)


def test_an_engine_answers_from_the_thread_of_a_model_as_from_its_own(on_cpu):
    async def ask_all(thread):
        return await asyncio.gather(*map(thread.ask, scenes()))

    thread = ModelThread(engine_on(DEVICE, SINGLE, replay=True))
    try:
        said = [answer for answers in asyncio.run(ask_all(thread)) for answer in answers]
    finally:
        thread.close(10)
    assert differing(said, on_cpu, least_iou=0.999) == []


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("replay", [False, True], ids=["plain", "replayed"])
def test_where_the_memory_of_a_gpu_runs_out_fewer_go_on_and_all_is_answered_the_same(
    replay, on_cpu
):
    engine = engine_on(DEVICE, SINGLE, replay=replay, limits=Limits())  # the GPU alone decides
    many, expected = scenes() * 3, on_cpu * 3
    engine.answer(many)  # libraries take what they need for good
    empty(engine)
    held = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    engine.answer(many)
    wanted, before = torch.cuda.max_memory_reserved() - held, times_out_of_memory()
    for share in (0.8, 0.65, 0.5, 0.4, 0.3, 0.2):
        empty(engine)
        limit(held + share * wanted)
        try:
            said = [answer for answers in engine.answer(many) for answer in answers]
        finally:
            limit(None)
        assert differing(said, expected, least_iou=0.999) == []
        if engine.generator.schedule.most < math.inf:  # else only masks were made a few at a time
            break
    assert times_out_of_memory() > before
    assert engine.generator.schedule.most < len(expected)


def empty(engine):
    engine.abandon()
    gc.collect()
    torch.cuda.empty_cache()


def limit(size):
    """Bytes that this process may take of the GPU; None: all."""
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction(1.0 if size is None else size / total)


def times_out_of_memory():
    return torch.cuda.memory_stats(DEVICE).get("num_ooms", 0)


def test_keys_and_values_may_take_a_share_of_what_is_free():
    shipped(DEVICE, SINGLE)
    free, total = torch.cuda.mem_get_info(DEVICE)
    limits = Limits.of_device(DEVICE, rows=5)
    assert limits.rows == 5
    assert 0.5 * GPU_SHARE * free < limits.slot_bytes <= GPU_SHARE * total
    half = Limits.of_device(DEVICE, share=0.5)
    assert 0 < half.slot_bytes <= 0.5 * GPU_SHARE * total


# ---- masks ---------------------------------------------------------------------------------------

GEOMETRIES = [
    # small side, square's side, resized, original
    (64, 128, (128, 128), (128, 128)),
    (64, 128, (96, 128), (192, 256)),
    (112, 448, (336, 448), (480, 640)),
    (112, 448, (448, 299), (1000, 667)),
    (64, 128, (96, 128), (30, 40)),
    (64, 128, (77, 128), (203, 337)),
    (32, 56, (56, 1), (90, 2)),
    (32, 28, (28, 20), (28, 20)),
]


def smooth(count, side, seed, shift):
    drawn = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 6, 6, generator=drawn) * 4 + shift
    return F.interpolate(coarse, (side, side), mode="bicubic")[:, 0]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_masks_that_are_cut_on_a_gpu_are_those_of_a_cpu_run_by_run(geometry):
    small, side, resized, original = geometry
    alike = 0
    for seed, shift in enumerate((-6.0, -2.0, 0.0, 8.0)):
        low = smooth(12, small, seed, shift)
        there = cut_masks(low.to(DEVICE), resized, original, side)
        here = cut_masks(low, resized, original, side)
        logits = postprocess_masks(low, resized, original, side)
        for one, other, logit in zip(there, here, logits, strict=True):
            turned = one.runs.pixels() != other.runs.pixels()
            assert np.abs(logit.numpy()[turned]).max(initial=0) < 1e-4  # even odds but for rounding
            again = RunMask.from_pixels(one.runs.pixels())
            assert one.runs.counts.tobytes() == again.counts.tobytes()
            assert one.score == pytest.approx(other.score, abs=1e-4)
            alike += one.runs.counts.tobytes() == other.runs.counts.tobytes()
    assert alike >= 0.8 * 48  # the others have pixels of even odds


def test_masks_of_half_precision_are_cut_on_a_gpu_in_single():
    low = smooth(24, 112, 5, -2.0).to(HALF)
    there = cut_masks(low.to(DEVICE), (448, 299), (1000, 667), 448)
    here = cut_masks(low, (448, 299), (1000, 667), 448)
    for one, other in zip(there, here, strict=True):
        turned = one.runs.pixels() != other.runs.pixels()
        assert turned.mean() < 1e-5
        assert one.score == pytest.approx(other.score, abs=1e-4)


# ---- learning ------------------------------------------------------------------------------------

PLAN = TrainPlan(
    model="tiny",
    data=(DataSet("mem://b/out"),),
    output="mem://b/trained",
    tuning=Tuning(dropout=0),  # which draws other numbers on a GPU
    schedule=Schedule(steps=6, rate=3e-3, warm_up=2, seed=3, average=0.5),
    per_worker=2,
    accumulate=2,
    precision="bf16",
    save_every=2,
    evaluate_every=0,
)


class Killed(BaseException):
    """As if the process was gone."""


def learn(plan, store, die_after=None):
    """The reports of a run, its scores, and its weights at the end when it came to one."""
    reports, scores = [], []

    def hear(event):
        (scores if isinstance(event, Evaluation) else reports).append(event)
        if event.step == die_after:
            raise Killed

    tiny = tiny_checkpoint(0, max_positions=512)
    checkpoint = Checkpoint(tiny.model.to(DEVICE), tiny.tokenizer, "")
    bench = Bench(checkpoint, store, States(store, plan.output, print), Alone())
    try:
        tuned = train(plan, bench, hear).tuned
    except Killed:
        return reports, scores, None
    return reports, scores, dict(tuned.merged_state())


@pytest.fixture(scope="module")
def whole():
    return learn(PLAN, memory_table())


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-3), ("bf16", 2e-2)])
def test_a_model_learns_on_a_gpu_what_it_learns_on_a_cpu(precision, near, monkeypatch):
    plan, there = replace(PLAN, precision=precision), DEVICE.type
    reports, _, weights = learn(plan, memory_table())
    monkeypatch.setattr(f"{__name__}.DEVICE", torch.device("cpu"))
    expected, _, _ = learn(plan, memory_table())
    assert reports[0].losses == pytest.approx(expected[0].losses, rel=near)
    assert reports[0].gradient == pytest.approx(expected[0].gradient, rel=5 * near)
    # gradients that are nothing but rounding move their weights as far as any, by AdamW
    for one, other in zip(reports, expected, strict=True):
        assert one.total == pytest.approx(other.total, rel=0.1)
    assert all(math.isfinite(each.gradient) and each.gradient > 0 for each in reports)
    assert reports[-1].total < reports[0].total
    assert {(value.dtype, value.device.type) for value in weights.values()} == {(SINGLE, there)}


def test_weights_that_learn_change_and_frozen_ones_stay(whole):
    _, _, weights = whole
    before = official_state(tiny_checkpoint(0, max_positions=512).model)
    changed = {name for name in before if not torch.equal(before[name], weights[name].cpu())}
    assert any("q_proj" in name and ".layers." in name for name in changed)
    assert "lm_head.weight" in changed
    assert not any(name.startswith("model.vision_tower.") for name in changed)


@pytest.mark.parametrize("death", [2, 5])
def test_a_run_that_was_killed_on_a_gpu_goes_on_as_one_that_was_not(whole, death):
    store, (reports, _, weights) = memory_table(), whole
    learn(PLAN, store, die_after=death)
    after, _, ended = learn(PLAN, store)
    first = after[0].step
    # the state of a step is kept after it was told of
    assert first == 1 + 2 * ((death - 1) // 2)
    for one, other in zip(after, reports[first - 1 :], strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-2, abs=1e-3)  # sums in any order
        assert one.gradient == pytest.approx(other.gradient, rel=0.1)
    near = [((value - weights[name]).abs() < 1e-3).float().mean() for name, value in ended.items()]
    assert torch.stack(near).mean() > 0.95  # the others have gradients that are nothing but noise


def test_a_run_is_scored_on_the_gpu_that_it_learns_on(whole):
    plan = replace(PLAN, evaluate_every=3, evaluate_rows=3, best="loss")
    reports, scores, _ = learn(plan, memory_table())
    assert [each.step for each in scores] == [3, 6]
    assert all(each.questions > 0 and math.isfinite(each.scores["loss"]) for each in scores)
    for one, other in zip(reports, whole[0], strict=True):  # and learns the same all the while
        assert one.total == pytest.approx(other.total, rel=1e-2)


def test_the_stages_of_the_small_model_learn_on_a_gpu_what_they_learn_on_a_cpu(tmp_path):
    schedules = {name: small_schedule(2, 1e-3) for name in STAGES}
    plan = DrawnPlan("mem://b/out", Recipe(0, 16, 2, 4, schedules), evaluate_every=2)
    losses = {}
    for device in (DEVICE, torch.device("cpu")):
        store = MemoryStore()
        DrawnTraining(plan, tmp_path, store, Alone(), print, device).run()
        for name in STAGES:
            lines = store.get(f"mem://b/out/_stages/{name}/metrics/000000001.jsonl").splitlines()
            losses[device, name] = [json.loads(line)["losses"] for line in lines]
    for name in STAGES:
        there, here = losses[DEVICE, name], losses[torch.device("cpu"), name]
        assert there[0] == pytest.approx(here[0], rel=1e-3, abs=1e-4)
        assert there[1] == pytest.approx(here[1], rel=0.05, abs=1e-2)  # behind a step of AdamW


@pytest.mark.parametrize("result", ["merged", "adapter"])
def test_the_whole_way_of_a_worker_on_a_gpu_leaves_what_was_learned(result, tiny_model, tmp_path):
    put_local_photos(tmp_path, f"{tmp_path}/gold")
    plan = replace(
        PLAN,
        data=(DataSet(f"{tmp_path}/gold"),),
        output=f"{tmp_path}/run",
        schedule=replace(PLAN.schedule, steps=2),
        recompute=True,
        result=result,
    )
    lines = []
    place = Path(work(plan, tiny_model, DEVICE, Alone(), lines.append))
    if DEVICE.type == "cuda":
        assert any("GB of the GPU" in line for line in lines)
    wanted = "adapter_model.safetensors" if result == "adapter" else "model.safetensors"
    assert (place / wanted).exists()


# ---- the machine ---------------------------------------------------------------------------------


def test_the_doctor_finds_a_gpu_that_computes():
    found = list(check_devices())
    assert [(each.outcome, each.seen) for each in found if each.outcome is not Outcome.OK] == []
    assert len(found) == 2 + torch.cuda.device_count()  # CUDA, each GPU, kernels


BREAKS = """
import asyncio, torch
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from pixellm.images import prepare_image
from pixellm.tiny import tiny_checkpoint
from workers.errors import ReplicaBroken
from workers.model_thread import ModelThread
import numpy as np

tiny = tiny_checkpoint(6)
tiny.model.to("cuda")
where = torch.tensor([10**6], device="cuda")
engine = Engine(tiny, predict=lambda states, _: tiny.model.language.lm_head(states[where]))
thread = ModelThread(engine)
sample = Sample(prepare_image(np.zeros((40, 52, 3), np.uint8), 56), ("a thing?",))
for _ in range(2):
    try:
        print("answered", asyncio.run(thread.ask(sample)))
    except ReplicaBroken as error:
        print("broken:", error)
thread.close(10)
"""
"""An index that is out of range fails on the GPU, after which the process can do nothing there."""


def test_a_gpu_that_fails_breaks_the_replica_and_every_asker_is_told():
    done = subprocess.run(
        [sys.executable, "-u", "-c", BREAKS],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.count("broken: ") == 2, done.stdout + done.stderr
    assert "answered" not in done.stdout
