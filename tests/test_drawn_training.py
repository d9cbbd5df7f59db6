"""Training of the small model: packing, losses, resuming. Sizes are cut down to run in seconds."""

import contextlib
import json
from collections import Counter

import numpy as np
import pytest
import torch

from pixellm.checkpoints import load_checkpoint
from pixellm.drawn.bank import NOTHING, Bank, describe, find_cells, masks_of, patch_owners
from pixellm.drawn.conversations import Conversations
from pixellm.drawn.language_stage import LanguageStage, read_packed
from pixellm.drawn.loop import Loop, Schedule, rate_at
from pixellm.drawn.practice import practise
from pixellm.drawn.questions import GROUP, ask
from pixellm.drawn.scenes import TEST_SEEDS, draw_scene, render
from pixellm.drawn.start import deepen, small_config, start_model
from pixellm.drawn.train import drawn_tokenizer, main
from pixellm.images import prepare_image
from pixellm.prompts import IGNORE_INDEX, render_prompt
from pixellm.tokenizer import IMAGE_TOKEN_INDEX


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return drawn_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return Bank(6, 128, tmp_path_factory.mktemp("bank"))


@pytest.fixture(scope="module")
def model(tokenizer):
    return start_model(small_config(tokenizer.vocab_size, hidden=64, layers=2), seed=3)


def test_the_bank_holds_what_prepare_image_would_make_of_the_drawing(bank):
    batch = bank.take(np.array([2]), np.array([False]))
    drawing = render(draw_scene(2), 128, 128)
    assert torch.allclose(
        bank.pixels(batch)[0], prepare_image(drawing.rgb, 128).pixels, atol=1e-5, rtol=0
    )


def test_a_mirrored_scene_has_its_masks_mirrored_too(bank):
    plain = bank.take(np.array([1]), np.array([False]))
    mirrored = bank.take(np.array([1]), np.array([True]))
    every = torch.arange(len(plain.things.codes))
    straight = masks_of(bank.owners(plain), plain.things, every)
    flipped = masks_of(bank.owners(mirrored), mirrored.things, every)
    assert torch.equal(straight.flip(-1), flipped)
    assert torch.allclose(plain.things.where[:, 0], 1 - mirrored.things.where[:, 0])


def test_masks_and_patches_name_the_same_things(bank):
    batch = bank.take(np.arange(6), np.zeros(6, bool))
    owners = bank.owners(batch)
    every = torch.arange(len(batch.things.codes))
    masks = masks_of(owners, batch.things, every)
    patches = patch_owners(owners, batch.things, 16)
    for thing in every:
        middle = masks[thing, 4::8, 4::8].flatten()
        image = batch.things.image_of[thing]
        assert torch.equal(patches[image] == thing, middle)
    assert (owners == NOTHING).any()


def test_every_thing_has_a_cell_of_its_own():
    scenes = [draw_scene(seed) for seed in range(20)]
    things = describe(scenes)
    cells = find_cells(scenes, things, 8)
    assert torch.equal(
        cells.thing[things.image_of, cells.of_thing], torch.arange(len(things.codes))
    )


def test_held_out_scenes_can_not_get_into_the_bank(tmp_path):
    with pytest.raises(ValueError, match="seed"):
        Bank(2, 128, tmp_path, seed=TEST_SEEDS[0])


def test_packed_conversations_read_the_same_as_each_alone(model, tokenizer):
    scene = draw_scene(5)
    rng = np.random.default_rng(0)
    questions = [ask(scene, rng) for _ in range(4)]
    conversations = Conversations(tokenizer)
    head = torch.tensor(conversations.head())
    tokens = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    shown = torch.rand(1, 64, generator=torch.Generator().manual_seed(1)) < 0.5
    together = conversations.pack([questions], [0])
    with torch.no_grad():
        packed = read_packed(model.language, head, tokens, together, shown).last[0]
        for number, question in enumerate(questions):
            single = conversations.pack([[question]], [0])
            alone = read_packed(model.language, head, tokens, single, shown).last[0]
            same = packed[together.row[0] == number]
            assert torch.allclose(same, alone, atol=1e-5)
            before = torch.tensor([0, int((together.row[0] == number).nonzero()[0])])
            own = together.target_of == number
            assert torch.equal(together.asked_at[number] - before, single.asked_at[0])
            assert torch.equal(together.group_at[own] - before, single.group_at)
            assert torch.equal(together.thing[own], single.thing)


def test_a_packed_row_marks_the_words_and_groups_that_the_losses_look_at(tokenizer):
    scene = draw_scene(11)
    question = next(
        q for q in (ask(scene, np.random.default_rng(i)) for i in range(99)) if len(q.targets) > 1
    )
    packed = Conversations(tokenizer).pack([[question]], [0])
    ids, predicts = packed.ids[0].tolist(), packed.predicts[0].tolist()
    ends = {tokenizer.encode(mark, bos=False)[0] for mark in (",", ".")}
    for (_, group), (_, after) in zip(
        packed.group_at.tolist(), packed.after_at.tolist(), strict=True
    ):
        assert ids[group + 1 : group + 7] == list(tokenizer.seg_ids)
        assert after == group + 6
        assert ids[after + 1] == predicts[after]
        assert predicts[after] in ends
    asked = int(packed.asked_at[0, 1])
    assert tokenizer.decode(ids[: asked + 1]).endswith("ASSISTANT:")
    assert predicts[:asked] == [IGNORE_INDEX] * asked
    wanted = tokenizer.encode(question.answer.replace(GROUP, tokenizer.seg_text), bos=False)
    assert predicts[asked:-1] == [*wanted, tokenizer.eos_id]


def test_images_of_a_batch_are_packed_as_each_alone(tokenizer):
    scene, rng, first = draw_scene(11), np.random.default_rng(0), [0, 7]
    questions = [[ask(scene, rng) for _ in range(count)] for count in (1, 4)]
    conversations = Conversations(tokenizer)
    packed = conversations.pack(questions, first)
    for image, asked in enumerate(questions):
        alone = conversations.pack([asked], [0])
        for name, filler in (("ids", 0), ("row", -1), ("place", 0), ("predicts", IGNORE_INDEX)):
            line, wanted = getattr(packed, name)[image], getattr(alone, name)[0]
            assert torch.equal(line[: len(wanted)], wanted)
            assert (line[len(wanted) :] == filler).all()
        there = torch.tensor([image, 0])
        for name in ("asked_at", "group_at", "after_at"):
            places = getattr(packed, name)
            assert torch.equal(places[places[:, 0] == image], getattr(alone, name) + there)
        own = packed.group_at[:, 0] == image
        assert torch.equal(packed.thing[own], alone.thing + first[image])
        before = sum(len(each) for each in questions[:image])
        assert torch.equal(packed.target_of[own], alone.target_of + before)


@pytest.mark.parametrize("system", ["", "Answer in a few words."])
def test_a_conversation_begins_as_the_model_will_be_asked(tokenizer, system):
    question = ask(draw_scene(11), np.random.default_rng(0))
    conversations = Conversations(tokenizer, system)
    row = conversations.row(question)
    shown = [*conversations.head(), IMAGE_TOKEN_INDEX, *row.ids[: row.asked_at + 1]]
    assert shown == tokenizer.encode_prompt(render_prompt(question.text, system))


def test_a_packed_row_knows_what_its_relation_refers_to(tokenizer):
    scene, rng = draw_scene(12), np.random.default_rng(0)
    questions = [ask(scene, rng, kind) for kind in ("attribute", "relation", "all", "relation")]
    packed = Conversations(tokenizer).pack([[], questions], [0, 7])
    assert packed.anchored.tolist() == [1, 3]
    anchors = [questions[i].query.anchor for i in (1, 3)]
    for look, index in zip(anchors, packed.anchor.tolist(), strict=True):
        assert [i for i, thing in enumerate(scene.things) if look.fits(thing)] == [index - 7]


def test_a_language_model_that_was_made_deeper_computes_the_same_and_can_learn_more(tokenizer):
    sizes = {"vocabulary": tokenizer.vocab_size, "hidden": 64}
    shallow = start_model(small_config(**sizes, layers=3), seed=1).language
    deep = start_model(small_config(**sizes, layers=5), seed=2).language
    embeds = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0))
    deepen(shallow, deep)
    states = deep(embeds, torch.ones(2, 9))
    assert torch.allclose(states, shallow(embeds, torch.ones(2, 9)), atol=1e-5)
    states.square().sum().backward()
    added = [deep.model.layers[index].self_attn.o_proj.weight for index in (1, 3)]
    assert all(not weight.any() and weight.grad.abs().max() > 0 for weight in added)


def test_a_language_model_can_not_be_made_shallower(tokenizer):
    small, large = (
        start_model(small_config(tokenizer.vocab_size, hidden=64, layers=n), seed=1).language
        for n in (1, 2)
    )
    with pytest.raises(ValueError, match="2 layers can't grow to 1"):
        deepen(large, small)


def test_the_losses_say_which_cells_are_meant(model, tokenizer):
    stage = LanguageStage(model, tokenizer, scenes=1000, held_out=2)
    losses = stage.losses(np.random.default_rng(0), 0.0)
    assert losses.keys() == {"ce", "group", "anchor", "early_set", "set", "rest"}
    sum(losses.values()).backward()
    heads = stage.parts.pointers.named_parameters()
    assert all(weight.grad.abs().max() > 0 for name, weight in heads if name.endswith("weight"))


def test_practice_asks_the_hard_kinds_more_often_and_names_targets_in_any_order():
    rng = np.random.default_rng(0)
    asked = [q for seed in range(150) for q in practise(draw_scene(seed), rng, 8)]
    kinds = Counter(question.kind for question in asked)
    assert kinds["relation"] > 2 * kinds["attribute"]
    vain = [q for q in asked if q.kind == "nothing"]
    assert sum(q.query.kind == "relation" for q in vain) > 0.35 * len(vain)


def test_the_rate_rises_and_then_falls_to_a_fiftieth():
    schedule = Schedule(steps=1000, rate=1.0)
    assert rate_at(0, schedule) < rate_at(50, schedule) < rate_at(99, schedule) == 1
    assert rate_at(1000, schedule) == pytest.approx(0.02)


def _language_run(model, tokenizer, folder, steps, stop_at=None):
    stage = LanguageStage(model, tokenizer, scenes=1000, held_out=2)
    loop = Loop("language", stage.parts, Schedule(steps, 1e-3), folder)
    seen = []

    def losses(rng, progress):
        if stop_at is not None and loop.step == stop_at:
            raise KeyboardInterrupt
        parts = stage.losses(rng, progress)
        seen.append(parts["ce"].item())
        return parts

    with contextlib.suppress(KeyboardInterrupt):
        loop.run(losses, lambda _: {}, save_every=2)
    return seen


@pytest.mark.slow
def test_a_stopped_training_goes_on_as_if_it_had_not_been_stopped(tokenizer, tmp_path):
    def fresh():
        return start_model(small_config(tokenizer.vocab_size, hidden=64, layers=1), seed=1)

    whole = _language_run(fresh(), tokenizer, tmp_path / "whole", 6)
    first = _language_run(fresh(), tokenizer, tmp_path / "halves", 6, stop_at=4)
    second = _language_run(fresh(), tokenizer, tmp_path / "halves", 6)
    assert first + second == pytest.approx(whole, abs=1e-6)


@pytest.mark.slow
def test_the_training_command_ends_in_a_folder_that_loads(tmp_path):
    steps = {"vision": 2, "words": 2, "language": 2, "align": 2, "joint": 2}
    sizes = {"output": tmp_path, "scenes": 16, "held-out": 8, "threads": 1}
    flags = sizes | {f"{stage}-steps": count for stage, count in steps.items()}
    main([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    checkpoint = load_checkpoint(tmp_path / "model")
    assert checkpoint.model.config.group_size == 6
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in curve} == steps.keys()
    assert all(np.isfinite(v) for line in curve for k, v in line.items() if k != "stage")


def test_a_seed_of_a_held_out_scene_is_refused_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "out"), "--seed", "200000000"])
    assert "--seed 200000000: scene seed 200000000 is not in range" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
