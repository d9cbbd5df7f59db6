import torch

from pixellm.answers import DecodeSettings
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from pixellm.images import PreparedImage
from pixellm.tiny import Script, tiny_checkpoint

QUESTIONS = ("the dog", "Which can fly?", "What is red?", "Please segment the cat.")


def samples(count, questions=QUESTIONS):
    generator = torch.Generator().manual_seed(0)
    return [
        Sample(
            PreparedImage(torch.randn(3, 56, 56, generator=generator), (56, 56), (20, 20)),
            questions,
        )
        for _ in range(count)
    ]


def test_the_same_seed_builds_the_same_model_and_leaves_the_random_state_alone():
    torch.manual_seed(1)
    first, drawn = tiny_checkpoint(4), torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    again, other = tiny_checkpoint(4), tiny_checkpoint(5)
    assert first.sha256 == again.sha256 != other.sha256
    state = again.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.model.state_dict().items())


def test_it_answers_with_whole_groups_with_none_and_with_several_and_ends_by_itself():
    engine = Engine(tiny_checkpoint(2), DecodeSettings(max_new_tokens=60))
    answers = [answer for answers in engine.answer(samples(3)) for answer in answers]
    counts = {len(answer.targets) for answer in answers}
    assert 0 in counts
    assert max(counts) > 1
    assert any(not answer.truncated for answer in answers)
    assert not any(answer.malformed and not answer.truncated for answer in answers)


def test_a_scripted_model_says_what_it_is_told():
    checkpoint = tiny_checkpoint(0)
    seg_ids, eos = list(checkpoint.tokenizer.seg_ids), checkpoint.tokenizer.eos_id
    scripts = [[5, eos], [*seg_ids, 7, *seg_ids, eos]]
    for _ in range(2):
        engine = Engine(checkpoint, predict=Script(scripts, checkpoint.tokenizer))
        (answers,) = engine.answer(samples(1, QUESTIONS[:3]))
        said = [list(answer.token_ids) for answer in answers]
        assert said == [scripts[0], scripts[1], scripts[1]]
        assert [len(answer.targets) for answer in answers] == [0, 2, 2]
