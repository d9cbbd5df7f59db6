"""Training of the small model: packing, losses, resuming. Sizes are cut down to run in seconds."""

from collections import Counter

import numpy as np
import pytest
import torch

from pixellm.drawn.bank import NOTHING, Bank, describe, find_cells, masks_of, patch_owners
from pixellm.drawn.conversations import Conversations
from pixellm.drawn.language_stage import LanguageStage, SpeakingParts, read_packed
from pixellm.drawn.practice import practise
from pixellm.drawn.questions import GROUP, ask
from pixellm.drawn.recipe import LANGUAGE_SCENES, Recipe, drawn_tokenizer, small_schedule
from pixellm.drawn.scenes import TEST_SEEDS, draw_scene, render
from pixellm.drawn.stages import Turn
from pixellm.drawn.start import deepen, small_config, start_model
from pixellm.images import prepare_image
from pixellm.prompts import IGNORE_INDEX, render_prompt
from pixellm.tokenizer import IMAGE_TOKEN_INDEX


@pytest.fixture(scope="module")
def tokenizer():
    return drawn_tokenizer()


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return Bank(range(6), 128, tmp_path_factory.mktemp("bank"))


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
        Bank(TEST_SEEDS[:2], 128, tmp_path)


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


def test_a_stage_learns_as_the_shipped_model_did():
    schedule = small_schedule(1000, 2.0)
    assert [schedule.rate_at(step) for step in (0, 49, 99)] == pytest.approx([0.02, 1.0, 2.0])
    assert schedule.rate_at(1000) == pytest.approx(0.04)
    assert (schedule.betas, schedule.decay, schedule.average) == ((0.9, 0.98), 0.05, 0.998)


def test_a_model_starts_the_same_with_any_number_of_threads(tokenizer):
    """Else a run could not go on from its states with another one: they hold a digest of it."""
    before, states = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            model = start_model(small_config(tokenizer.vocab_size, layers=2), seed=0)
            states.append(model.state_dict() | SpeakingParts(model, tokenizer).state_dict())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    first, second = states
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_every_worker_draws_scenes_of_its_own_at_every_step_and_the_same_again():
    turns = [Turn("words", step, 9, rank) for step in (0, 1) for rank in (0, 1)]
    drawn = [turn.rng().random() for turn in turns]
    assert len(set(drawn)) == 4
    assert drawn == [turn.rng().random() for turn in turns]
    assert drawn[2] == np.random.default_rng([1, 5]).random()  # as the shipped model's did


def test_kept_scenes_are_drawn_again_when_the_world_has_changed(tmp_path):
    first = Bank(range(2), 32, tmp_path)
    (path,) = tmp_path.glob("rgb-*.npy")
    np.save(path, np.zeros_like(first.rgb))
    assert np.array_equal(Bank(range(2), 32, tmp_path).rgb, Bank(range(2), 32).rgb)
    assert not list(tmp_path.glob("*.part*"))


def test_kept_scenes_are_not_drawn_again(tmp_path):
    Bank(range(2), 32, tmp_path)
    before = [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.iterdir())]
    assert np.array_equal(Bank(range(2), 32, tmp_path).owner, Bank(range(2), 32).owner)
    assert before == [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.iterdir())]
    Bank(range(1, 3), 32, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_recipe_keeps_away_from_the_scenes_of_the_scores():
    with pytest.raises(ValueError, match="scene seed 200000000 is not in range"):
        Recipe(seed=TEST_SEEDS[0])
    assert LANGUAGE_SCENES + Recipe().held_out < TEST_SEEDS[0]
