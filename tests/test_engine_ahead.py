"""What is done once for many pictures, or before its time: it changes no answer."""

from contextlib import contextmanager, nullcontext
from unittest.mock import Mock

import pytest
import torch

from pixellm.engine import generation
from pixellm.engine.aside import Aside, _stream_of
from pixellm.engine.attention import StepPlan
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from pixellm.engine.prefixes import PrefixPlan
from pixellm.engine.rows import Sample
from pixellm.images import PreparedImage
from pixellm.tiny import tiny_checkpoint
from tests.mixtures import SETTINGS, alone, assert_same, facts, make_samples, said

# ---- the text before the image ----


def reads_of(engine, monkeypatch):
    """(rows, length) of all that the language model reads for prefixes."""
    language, reads = engine.model.language, []
    forward = language.forward

    def noted(embeds, *others, **named):
        assert named["keys_only"]
        reads.append(tuple(embeds.shape[:2]))
        return forward(embeds, *others, **named)

    monkeypatch.setattr(language, "forward", noted)
    return reads


def test_the_text_before_the_image_is_read_once_for_all_pictures(monkeypatch):
    monkeypatch.setattr(generation, "PICTURES_AT_ONCE", 2)
    checkpoint, samples = tiny_checkpoint(6), asked(5)
    truth, engine = alone(checkpoint, samples), Engine(checkpoint, SETTINGS, Limits(rows=6))
    reads = reads_of(engine, monkeypatch)
    assert_same(said(engine, samples), truth)
    text, images = len(engine.generator._prefix), checkpoint.model.config.image_tokens
    assert reads[0] == (1, text)
    assert {length for _, length in reads[1:]} == {images}
    assert [count for count, _ in reads[1:]] == [2, 2, 1]


@pytest.mark.parametrize("rows", [1, 2])
def test_the_text_is_read_once_also_where_no_picture_stays_for_the_next(rows, monkeypatch):
    engine = Engine(tiny_checkpoint(6), SETTINGS, Limits(rows=rows))
    reads, text = reads_of(engine, monkeypatch), len(engine.generator._prefix)
    said(engine, asked(4))
    assert [length for _, length in reads].count(text) == 1


def test_the_text_that_is_read_anew_lies_where_recordings_read_it():
    engine = Engine(tiny_checkpoint(6), SETTINGS, replay=True)
    places = []
    for _ in range(2):
        said(engine, asked(2))
        kept = engine.generator._text.kept
        places.append([tensor.data_ptr() for pair in kept for tensor in pair])
    assert places[0] == places[1]
    engine.abandon()
    assert not engine.generator._text.kept  # memory that nobody needs now
    assert len(places[0]) == 2 * len(engine.model.language.model.layers)


@pytest.mark.parametrize("replay", [False, True], ids=["as they are", "alike"])
def test_when_nothing_is_under_way_the_text_is_read_anew_for_weights_may_be_others(replay):
    checkpoint, samples = tiny_checkpoint(6), asked(3)
    engine = Engine(checkpoint, SETTINGS, replay=replay)
    before = said(engine, samples)
    with torch.no_grad():
        checkpoint.model.language.model.layers[0].self_attn.v_proj.weight.mul_(3)
    after = said(engine, samples)
    assert_same(after, said(Engine(checkpoint, SETTINGS), samples))
    words = [[ids for answers in all_ for ids, *_ in answers] for all_ in (before, after)]
    assert words[0] != words[1]


def test_a_picture_that_is_no_number_spoils_no_other(monkeypatch):
    """What is the same for all is not taken from one of them."""
    checkpoint, samples = tiny_checkpoint(6), asked(4)
    truth, engine = alone(checkpoint, samples), Engine(checkpoint, SETTINGS, Limits(rows=3))
    encode, spoilt = engine.model.encode_images, []

    def overflow(pixels, resized):
        images = encode(pixels, resized)
        if not spoilt:
            spoilt.append(1)
            images.tokens[0] = torch.nan
        return images

    monkeypatch.setattr(engine.model, "encode_images", overflow)
    jobs = [engine.add(sample) for sample in samples]
    while engine.busy:
        engine.step()
    (failed,), *others = (job.rows for job in jobs)
    assert "is no number" in failed.failure.message
    assert_same([[facts(row.answer) for row in rows] for rows in others], truth[1:])


# ---- pictures of questions that wait ----


@pytest.fixture
def looking(monkeypatch):
    """An engine that looks ahead, as on a GPU, and how many pictures it took, and whether ahead."""
    engine, looks = Engine(tiny_checkpoint(6), SETTINGS, Limits(rows=3)), []
    engine._ahead = True
    encode, begin = engine.model.encode_images, engine.generator._aside.begin
    ahead = [False]

    @contextmanager
    def beginning():
        ahead[0] = True
        try:
            with begin():
                yield
        finally:
            ahead[0] = False

    def noted(pixels, resized):
        looks.append((len(pixels), ahead[0]))
        return encode(pixels, resized)

    monkeypatch.setattr(engine.generator._aside, "begin", beginning)
    monkeypatch.setattr(engine.model, "encode_images", noted)
    return engine, looks


def asked(count, questions=1):
    """Each about an image of its own."""
    images = [sample.image for sample in make_samples(2)]
    own = [images[at % len(images)] for at in range(count)]
    return [
        Sample(PreparedImage(each.pixels, each.resized, each.original), ("the cat",) * questions)
        for each in own
    ]


def test_pictures_of_questions_that_wait_are_looked_at_beside_the_steps_of_others(looking):
    engine, looks = looking
    samples = asked(11)
    assert_same(said(engine, samples), alone(tiny_checkpoint(6), samples))
    assert looks == [(3, False), (8, True)]  # those that entered at once, and all others


def test_few_pictures_are_not_worth_looking_ahead_for(looking, monkeypatch):
    engine, looks = looking
    monkeypatch.setattr(generation, "PICTURES_AT_ONCE", 4)
    said(engine, asked(11))
    assert looks[:3] == [(3, False), (4, True), (4, True)]  # of those that wait, eight
    assert sum(count for count, _ in looks) == 11
    assert all(ahead and count >= 2 for count, ahead in looks[1:-1])


def test_where_memory_runs_out_over_pictures_ahead_they_come_in_their_time(looking, monkeypatch):
    engine, looks = looking
    encode = engine.model.encode_images

    def scarce(pixels, resized):
        images = encode(pixels, resized)
        if looks[-1][1]:
            raise MemoryError
        return images

    monkeypatch.setattr(engine.model, "encode_images", scarce)
    samples = asked(11)
    assert_same(said(engine, samples), alone(tiny_checkpoint(6), samples))
    assert [ahead for _, ahead in looks].count(True) == 1
    assert sum(count for count, ahead in looks if not ahead) == 11


@pytest.mark.parametrize("what", ["step", "masks"])
def test_where_memory_has_run_out_nothing_is_looked_at_ahead_any_more(looking, what, monkeypatch):
    engine, looks = looking
    model = engine.model
    owner, name = {"step": (model.language, "step"), "masks": (model, "decode")}[what]
    work, calls = getattr(owner, name), []

    def scarce(*arguments):
        calls.append(1)
        if len(calls) < 3:
            raise MemoryError
        return work(*arguments)

    monkeypatch.setattr(owner, name, scarce)
    monkeypatch.setattr(generation, "PICTURES_AT_ONCE", 4)
    samples = asked(19)
    assert_same(said(engine, samples), alone(tiny_checkpoint(6), samples))
    assert len(calls) > 4
    assert [ahead for _, ahead in looks].count(True) == {"step": 0, "masks": 2}[what]


def test_where_steps_are_alike_others_come_in_while_the_device_is_at_those_under_way(monkeypatch):
    engine, order = Engine(tiny_checkpoint(6), SETTINGS, Limits(rows=2), replay=True), []

    def note(owner, name):
        work = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a: (order.append(name), work(*a))[1])

    note(engine.generator._aside, "catch_up")
    note(engine.generator, "_say_next")
    note(engine.generator.schedule, "enter")
    note(engine.generator, "_read_pictures")
    note(engine.generator, "_read_questions")
    engine.add(asked(1)[0])
    engine.step()
    assert engine.in_step == 1
    engine.add(asked(1)[0])
    order.clear()
    engine.step()
    assert order == ["catch_up", "_say_next", "enter", "_read_pictures", "_read_questions"]
    assert engine.in_step == 2


def test_a_step_over_which_memory_has_run_out_brought_nothing_on(monkeypatch):
    engine = Engine(tiny_checkpoint(6), SETTINGS, replay=True)
    for sample in asked(2):
        engine.add(sample)
    engine.step()
    assert engine.in_step == 2
    monkeypatch.setattr(engine.model.language, "step", Mock(side_effect=MemoryError))
    engine.step()
    assert engine.in_step == 0


@pytest.mark.parametrize(("pictures", "alike"), [(2, True), (3, False)])
def test_many_pictures_are_not_worth_a_recording(pictures, alike, monkeypatch):
    engine, plans = Engine(tiny_checkpoint(6), SETTINGS, replay=True), []
    tokens = engine.model.config.image_tokens
    monkeypatch.setattr("pixellm.engine.prefixes.TOKENS_ALIKE", 2 * tokens)
    run = engine.generator._run
    monkeypatch.setattr(engine.generator, "_run", lambda plan: (plans.append(plan), run(plan))[1])
    for sample in asked(pictures):
        engine.add(sample)
    engine.step()
    assert [type(plan) for plan in plans] == [PrefixPlan, StepPlan]
    assert plans[0].alike is alike


def test_a_cpu_does_one_thing_after_the_other():
    assert not Engine(tiny_checkpoint(6))._ahead


def test_what_is_begun_beside_the_steps_is_joined_before_it_is_read(monkeypatch):
    """Streams of a GPU that isn't there."""
    order = []

    class Stream:
        def __init__(self, name):
            self.name, self.device = name, "cuda:0"

        def wait_stream(self, other):
            order.append(f"{self.name} waits for {other.name}")

        def synchronize(self):
            order.append(f"Python waits for {self.name}")

    @contextmanager
    def on(stream):
        order.append(f"on {stream.name}")
        yield
        order.append(f"off {stream.name}")

    cuda = Mock(stream=on, current_stream=lambda _: Stream("main"))
    cuda.Stream = lambda _, priority: Stream({-1: "urgent", 0: "other"}[priority])
    monkeypatch.setattr(torch, "cuda", cuda)
    _stream_of.cache_clear()
    gpu = torch.device("cuda:0")
    ahead, urgent = Aside(gpu, urgent=False), Aside(gpu)
    ahead.catch_up()
    with ahead.begin():
        order.append("look")
    ahead.join()
    with urgent.work():
        order.append("cut")
    _stream_of.cache_clear()
    assert order == [
        *("other waits for main", "on other", "look", "off other", "main waits for other"),
        *("on urgent", "cut", "off urgent", "Python waits for urgent"),
    ]
    assert ahead.apart
    assert not Aside(torch.device("cpu")).apart
    with Aside(torch.device("cpu")).begin():
        pass


def test_pictures_are_joined_when_they_enter_and_a_step_is_caught_up_with_before_it(monkeypatch):
    engine, order = Engine(tiny_checkpoint(6), SETTINGS), []
    own = engine.generator._aside
    for name in ("catch_up", "join"):
        monkeypatch.setattr(own, name, lambda name=name: order.append(name))
    monkeypatch.setattr(own, "begin", lambda: (order.append("begin"), nullcontext())[1])
    read = engine.generator._read_prefixes
    monkeypatch.setattr(
        engine.generator, "_read_prefixes", lambda some: (order.append("read"), read(some))
    )
    engine._ahead = True
    for sample in asked(1):
        engine.add(sample)
    engine.step()
    assert order == ["catch_up", "join", "read"]
    engine.step()
    assert order[3:] == ["catch_up", "begin"]
