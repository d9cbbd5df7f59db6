from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from pixellm.answers import DecodeSettings
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from pixellm.images import prepare_image
from pixellm.learners import Tuning
from pixellm.losses import LossWeights
from pixellm.masks import combine_scales
from pixellm.model import PixelLM, spread
from pixellm.prompts import label_conversation
from pixellm.tiny import tiny_checkpoint
from pixellm.tokenizer import IMAGE_TOKEN_INDEX
from pixellm.training import TrainingBatch, pad_conversations, training_losses

SHORT, LONG = "dog", "Which of the things left of the red box can fly in this image?"
SETTINGS = DecodeSettings(max_new_tokens=40)
SIZES = [
    {"scales": 1, "tokens_per_scale": 1},
    {"scales": 1, "tokens_per_scale": 4},
    {"scales": 2, "tokens_per_scale": 1, "image_side": 112, "clip_side": 56},
    {"scales": 3, "tokens_per_scale": 2, "patch": 8, "llm_grid": 5},
]


def picture(seed, height, width, side=56):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return prepare_image(rgb, side)


@pytest.fixture(scope="module")
def checkpoint():
    return tiny_checkpoint(0)


def batch_of(checkpoint, answers=("it is {}, the cat is {}.", "Nothing.", "{}")):
    """Two images with padding on different sides, three conversations, some without a target."""
    side = checkpoint.model.config.image_side
    images, image_of = [picture(1, 30, 40, side), picture(2, 61, 25, side)], torch.tensor([0, 0, 1])
    seg, questions = checkpoint.tokenizer.seg_text, (SHORT, LONG, SHORT)
    rows = [
        label_conversation(checkpoint.tokenizer, question, answer.replace("{}", seg), "")
        for question, answer in zip(questions, answers, strict=True)
    ]
    ids, labels, valid = pad_conversations(rows)
    counts = [answers[0].count("{}") + answers[1].count("{}"), answers[2].count("{}")]
    masks = [
        (torch.rand(n, *image.original) > 0.5).float()
        for n, image in zip(counts, images, strict=True)
    ]
    pixels = torch.stack([image.pixels for image in images])
    resized = tuple(image.resized for image in images)
    seg_ids = checkpoint.tokenizer.seg_ids
    return TrainingBatch(pixels, resized, ids, labels, valid, image_of, seg_ids, tuple(masks))


# ---- answers don't depend on what they are batched with ----


@pytest.mark.parametrize("sizes", [{}, *SIZES])
def test_answers_in_a_batch_equal_answers_alone(sizes):
    checkpoint = tiny_checkpoint(3, **sizes)
    engine, side = Engine(checkpoint, SETTINGS), checkpoint.model.config.image_side
    samples = [
        Sample(picture(0, 40, 50, side), (SHORT, LONG, "What is red?")),
        Sample(picture(1, 90, 31, side), (LONG,)),
        Sample(picture(2, 20, 20, side), ()),
        Sample(picture(3, 33, 80, side), ("Please segment the cat.", SHORT)),
    ]
    together = engine.answer(samples)
    assert [len(answers) for answers in together] == [3, 1, 0, 2]
    assert sum(len(answer.targets) for answers in together for answer in answers) > 0
    for sample, answers in zip(samples, together, strict=True):
        for question, answer in zip(sample.questions, answers, strict=True):
            ((alone,),) = engine.answer([replace(sample, questions=(question,))])
            assert answer.token_ids == alone.token_ids
            assert answer.text == alone.text
            for one, other in zip(answer.targets, alone.targets, strict=True):
                assert one.mask.shape == sample.image.original
                assert np.array_equal(one.mask, other.mask)
                assert one.score_mask == pytest.approx(other.score_mask, abs=1e-5)
                assert one.score_token == pytest.approx(other.score_token, abs=1e-5)


def test_answers_depend_on_the_question_and_on_the_image(checkpoint):
    engine = Engine(checkpoint, SETTINGS)
    samples = [Sample(picture(seed, 40, 50), (SHORT, LONG)) for seed in (0, 1)]
    (a, b), (c, _) = engine.answer(samples)
    assert a.token_ids != b.token_ids
    assert a.token_ids != c.token_ids


@pytest.mark.parametrize("question", [SHORT, LONG])
def test_generation_with_a_cache_equals_reading_everything_anew(checkpoint, question):
    engine, model, image = Engine(checkpoint, SETTINGS), checkpoint.model, picture(5, 70, 30)
    with torch.inference_mode():
        images = model.encode_images(image.pixels[None], [image.resized])
        prompt = engine.prompt_ids(question)
        (made,) = engine.generate(images, [prompt], [0])
        ids, states = list(prompt), []
        while len(ids) < len(prompt) + 40 and ids[-1] != checkpoint.tokenizer.eos_id:
            read = torch.tensor([ids])
            hidden = model.read(read, torch.ones_like(read), images, torch.tensor([0]))[0, -1]
            states.append(hidden)
            logprobs = model.language.lm_head(hidden).log_softmax(-1)
            ids.append(int(logprobs.argmax()))
    assert list(made.ids) == ids[len(prompt) :]
    torch.testing.assert_close(made.hidden, torch.stack(states), rtol=1e-4, atol=1e-4)
    assert float(made.logprobs[-1]) == pytest.approx(float(logprobs.max()), abs=1e-4)


def test_padding_never_changes_what_a_row_reads(checkpoint):
    batch, model = batch_of(checkpoint), checkpoint.model
    with torch.no_grad():
        images = model.encode_images(batch.pixels, batch.resized)
        together = model.read(batch.ids, batch.text_valid, images, batch.image_of)
        for row, length in enumerate(batch.text_valid.sum(1).tolist()):
            own, valid = batch.ids[row : row + 1, :length], torch.ones(1, length)
            alone = model.read(own, valid, images, batch.image_of[row : row + 1])[0]
            torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-4, atol=1e-4)


def test_an_image_reads_the_same_beside_others(checkpoint):
    batch, model = batch_of(checkpoint), checkpoint.model
    with torch.no_grad():
        both = model.encode_images(batch.pixels, batch.resized)
        alone = model.encode_images(batch.pixels[1:], batch.resized[1:])
    torch.testing.assert_close(both.tokens[1:], alone.tokens, rtol=1e-4, atol=1e-5)
    for pair in zip(both.maps, alone.maps, strict=True):
        torch.testing.assert_close(pair[0][1:], pair[1], rtol=1e-4, atol=1e-4)


def test_values_of_ids_are_laid_out_around_the_image():
    ids = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5, 6], [1, 7, IMAGE_TOKEN_INDEX, 8]])
    values = torch.tensor([[10, 0, 50, 60], [10, 70, 0, 80]])
    assert spread(values, ids, 2, -1).tolist() == [[10, -1, -1, 50, 60], [10, 70, -1, -1, 80]]
    inside = torch.tensor([[1, 2], [3, 4]])
    assert spread(values, ids, 2, inside).tolist() == [[10, 1, 2, 50, 60], [10, 70, 3, 4, 80]]


def test_decoding_joins_all_scales_and_keeps_the_guess_of_the_finest():
    model = tiny_checkpoint(0, scales=3, tokens_per_scale=2, patch=8, llm_grid=5).model
    config, image = model.config, picture(1, 30, 40)
    queries, first = torch.randn(2, 3, config.decoder.width), torch.tensor([0, 0])
    with torch.no_grad():
        images = model.encode_images(image.pixels[None], [image.resized])
        low = model.decode(images.maps, queries, first)
        scales = model.decoder(images.maps, queries, first)
    joined = combine_scales([scale.logits for scale in scales], config.mask_side)
    assert torch.equal(low.logits, joined)
    assert low.logits.shape == (2, config.mask_side, config.mask_side)
    assert torch.equal(low.iou, scales[2].iou[:, 0])


# ---- sizes, precision, training ----


@pytest.mark.parametrize("sizes", SIZES)
def test_every_size_learns(sizes):
    checkpoint = tiny_checkpoint(0, **sizes)
    batch = batch_of(checkpoint)
    losses = training_losses(checkpoint.model, batch, LossWeights(refinement=2.0))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    for part in ("vision", "image_projector", "mask_projector", "language", "codebook", "decoder"):
        grads = [p.grad for p in checkpoint.model.get_submodule(part).parameters()]
        assert any(g is not None and bool(g.abs().sum() > 0) for g in grads), part


def test_bf16_runs_and_stays_near_fp32(checkpoint):
    small = tiny_checkpoint(0, dtype=torch.bfloat16)
    batch = batch_of(checkpoint)
    with torch.no_grad():
        rough = small.model.encode_images(batch.pixels, batch.resized)
        exact = checkpoint.model.encode_images(batch.pixels, batch.resized)
    assert rough.tokens.dtype == rough.maps[0].dtype == torch.bfloat16
    assert (rough.tokens.float() - exact.tokens).norm() < 0.05 * exact.tokens.norm()
    (answers,) = Engine(small, SETTINGS).answer([Sample(picture(0, 40, 50), (SHORT, LONG))])
    assert all(t.mask.shape == (40, 50) and 0 <= t.score_mask <= 1 for t in answers[0].targets)
    assert torch.isfinite(training_losses(small.model, batch, LossWeights()).total)


def test_lora_adapts_queries_and_values_of_the_language_model_only():
    checkpoint = tiny_checkpoint(0)
    adapted = get_peft_model(checkpoint.model, LoraConfig(r=2, target_modules=Tuning().pattern))
    names = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    layers = range(checkpoint.model.config.llama["num_hidden_layers"])
    wanted = {f"language.model.layers.{i}.self_attn.{p}_proj" for i in layers for p in "qv"}
    assert {name.split(".lora_")[0].removeprefix("base_model.model.") for name in names} == wanted

    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    batch, losses = batch_of(checkpoint), []
    for _ in range(3):
        loss = training_losses(adapted.base_model.model, batch, LossWeights()).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[0]


@pytest.mark.parametrize(("key", "value"), [("rope_theta", 100.0), ("rms_norm_eps", 0.1)])
def test_the_language_model_takes_its_constants_from_the_config(checkpoint, key, value):
    plain = checkpoint.model
    config = replace(plain.config, llama={**plain.config.llama, key: value})
    other = PixelLM(config).eval()
    other.load_state_dict(plain.state_dict())
    frequencies = other.language.model.rotary_emb.inv_freq
    theta = 100.0 if key == "rope_theta" else 10_000.0
    expected = theta ** -(torch.arange(0, 12, 2) / 12)
    torch.testing.assert_close(frequencies, expected, rtol=1e-5, atol=1e-7)
    eps = value if key == "rms_norm_eps" else 1e-6
    norms = [m for name, m in other.language.named_modules() if name.endswith("norm")]
    assert {norm.eps for norm in norms} == {eps}
    embeds, keys = torch.randn(1, 9, 48), torch.ones(1, 9)
    with torch.no_grad():
        assert not torch.allclose(plain.language(embeds, keys), other.language(embeds, keys))
