"""The kernels for GPUs, as Triton's interpreter runs them on a CPU: the same as what torch does."""

import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import chain
from unittest.mock import Mock

import pytest
import torch
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from pixellm.answers import DecodeSettings
from pixellm.engine import sharing
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from pixellm.engine.rows import Sample
from pixellm.engine.slots import Slots
from pixellm.kernel_choice import _tell, _try_them, kernels_fit, why_no_kernels
from pixellm.language import LanguageModel
from pixellm.tiny import tiny_checkpoint
from tests.mixtures import Trouble, assert_same, facts, make_samples, said

pytest.importorskip("triton", reason="there is no Triton for this system")
kernels = pytest.importorskip("pixellm.kernels")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where there is a GPU, they are compiled for it."""
LEAST = torch.finfo(torch.float32).min


@pytest.mark.parametrize("batch", [1, 2])
def test_heads_are_turned_as_transformers_does(batch):
    torch.manual_seed(0)
    states, angles = torch.randn(2, 5, 11, 16), torch.randn(batch, 5, 8)
    cos, sin = (torch.cat([each] * 2, dim=-1) for each in (angles.cos(), angles.sin()))
    by_head = states.transpose(1, 2)
    wanted, _ = apply_rotary_pos_emb(by_head, by_head, cos, sin)
    made = states.to(DEVICE)
    kernels.rotate_(made, cos.to(DEVICE), sin.to(DEVICE))
    torch.testing.assert_close(made.cpu().transpose(1, 2), wanted, rtol=1e-6, atol=1e-6)


def test_the_gate_lets_through_what_transformers_does():
    torch.manual_seed(0)
    gate, up = 3 * torch.randn(2, 5, 7, 300)
    wanted = torch.nn.functional.silu(gate) * up
    longer = torch.full((gate.numel() + 1,), 7.0, device=DEVICE)
    made = longer[:-1].view_as(gate)
    made.copy_(gate)
    kernels.gate_(made, up.to(DEVICE))
    torch.testing.assert_close(made.cpu(), wanted, rtol=1e-6, atol=1e-6)
    assert longer[-1] == 7  # and nothing behind it


@pytest.mark.parametrize("heads", [3, 8, 20])
def test_keys_and_values_lie_in_their_slots_and_nothing_else_is_touched(heads):
    torch.manual_seed(heads)
    slots = Slots(tiny_checkpoint(6).model.language, 20)
    held = torch.randn(2, 5, heads, 11, 16)
    slots.keys, slots.values = [held[0].clone()], [held[1].clone()]
    own = tuple(each.to(DEVICE) for each in held)
    made = torch.randn(2, 4, heads, 16)
    owners, places = torch.tensor([4, 0, 2, 4]), torch.tensor([3, 0, 10, 4])
    slots.write(0, owners, places, *made)
    kernels.keep(tuple(made.to(DEVICE)), own, owners.to(DEVICE), places.to(DEVICE))
    assert torch.equal(own[0].cpu(), slots.keys[0])
    assert torch.equal(own[1].cpu(), slots.values[0])


def attend_plainly(query, prefix, own, seats, scaling):
    """Token by token, with torch's softmax over exactly what the token may look at."""
    prefix_keys, prefix_values, bias = prefix
    keys, values = own
    out, heads = torch.empty_like(query), keys.shape[1]
    for token, (row, place) in enumerate(zip(*(each.tolist() for each in seats[:2]), strict=True)):
        picture = seats[2][row]
        seen = bias[picture] == 0
        key, value = (
            torch.cat([there[picture][:, seen], here[row][:, : place + 1]], dim=1)
            for there, here in ((prefix_keys, keys), (prefix_values, values))
        )
        asked = query[token].view(heads, -1, query.shape[2])
        weights = (asked @ key.transpose(1, 2) * scaling).softmax(-1)
        out[token] = (weights @ value).flatten(0, 1)
    return out


@pytest.mark.parametrize("together", [1, 2, 4])
@pytest.mark.parametrize(("each", "groups"), [(1, 1), (1, 3), (5, 2), (70, 1), (20, 4)])
def test_rows_attend_to_their_pictures_prefix_and_to_their_own_slots(each, groups, together):
    torch.manual_seed(each)
    rows, pictures, heads, slots, width, length = 6, 3, 2, 77, 16, 100
    prefix = (
        *torch.randn(2, pictures, heads, slots, width),
        (torch.rand(pictures, slots) < 0.2).float() * LEAST,
    )
    prefix[2][:, 0] = 0
    own = tuple(torch.randn(2, rows, heads, length, width))
    owners = torch.tensor([4, 0, 5]).repeat_interleave(each)
    places = (torch.tensor([[29], [0], [7]]) + torch.arange(each)).flatten()
    seats = (owners, places, torch.tensor([2, 0, 0, 1, 1, 2]))
    query = torch.randn(3 * each, heads * groups, width)
    out = torch.full_like(query, torch.nan, device=DEVICE)
    there = ([part.to(DEVICE) for part in parts] for parts in (prefix, own, seats))
    order = None if together == 1 else torch.tensor([2, 0, 1], device=DEVICE)
    kernels.attend_rows(query.to(DEVICE), out, each, *there, 0.3, order, together)
    wanted = attend_plainly(query, prefix, own, seats, 0.3)
    torch.testing.assert_close(out.cpu(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spoilt", ["prefix", "own", "query"])
def test_what_is_no_number_spoils_no_row_that_stands_beside_it(spoilt):
    torch.manual_seed(3)
    prefix = (*torch.randn(2, 2, 1, 20, 16), torch.zeros(2, 20))
    own, query = torch.randn(2, 4, 1, 30, 16), torch.randn(4, 1, 16)
    pictures = torch.tensor([1, 0, 1, 0])
    seats = (torch.arange(4), torch.tensor([9, 29, 0, 20]), pictures)
    bad = {"prefix": pictures == 1, "own": pictures.new_tensor([0, 0, 1, 0]) > 0}
    bad["query"] = bad["own"]
    wanted = attend_plainly(query, prefix, own, seats, 0.3)
    if spoilt == "prefix":
        for each in prefix[:2]:
            each[1] = torch.nan
    else:
        {"own": own[:, 2], "query": query[2]}[spoilt].fill_(torch.nan)
    out = torch.full_like(query, 7.0, device=DEVICE)
    there = ([part.to(DEVICE) for part in parts] for parts in (prefix, own, seats))
    order = torch.tensor([1, 3, 0, 2], device=DEVICE)
    kernels.attend_rows(query.to(DEVICE), out, 1, *there, 0.3, order, 4)
    assert out.cpu().isnan().flatten(1).all(1).tolist() == bad[spoilt].tolist()
    sound = ~bad[spoilt]
    torch.testing.assert_close(out.cpu()[sound], wanted[sound], rtol=1e-5, atol=1e-5)


def have_kernels(monkeypatch):
    for module in ("pixellm.engine.generation", "pixellm.language"):
        monkeypatch.setattr(f"{module}.kernels_fit", lambda *_, **__: True)


def test_kernels_are_not_used_where_something_learns(monkeypatch):
    """They write over what a gradient needs, and have none of their own."""
    language = tiny_checkpoint(6, heads=3, key_value_heads=3).model.language
    embeds, keys = torch.randn(1, 5, language.model.config.hidden_size), torch.ones(1, 5)
    language(embeds, keys).sum().backward()
    wanted = [each.grad.clone() for each in language.model.parameters() if each.grad is not None]
    have_kernels(monkeypatch)
    language.zero_grad()
    language(embeds, keys).sum().backward()
    found = [each.grad for each in language.model.parameters() if each.grad is not None]
    assert len(found) == len(wanted) > 10
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_with_kernels_a_conversation_is_read_as_without(monkeypatch, activation):
    config = tiny_checkpoint(6, heads=3, key_value_heads=3).model.config
    config = replace(config, llama={**config.llama, "hidden_act": activation})
    language = LanguageModel(config).to(DEVICE)
    embeds = torch.randn(2, 9, language.model.config.hidden_size, device=DEVICE)
    keys, positions = torch.ones(2, 9, device=DEVICE), torch.arange(18, device=DEVICE).view(2, 9)

    def read():
        cache = DynamicCache(config=language.model.config)
        with torch.no_grad():
            language(embeds[:, :4], keys[:, :4], cache)
            return [language(embeds[:, 4:], keys, cache), *language.depths(embeds, keys, positions)]

    without, calls = read(), Counter[str]()

    def count(name, own):
        monkeypatch.setattr(kernels, name, lambda *parts: (calls.update([name]), own(*parts)))

    count("rotate_", kernels.rotate_)
    count("gate_", kernels.gate_)
    have_kernels(monkeypatch)
    for one, other in zip(without, read(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    layers = 3 * config.llama["num_hidden_layers"]  # of three readings
    assert calls["rotate_"] == 2 * layers
    assert calls["gate_"] == (layers if activation == "silu" else 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replay", "key_value_heads", "programs"), [(False, 3, 512), (True, 1, 1), (False, 3, 1)]
)
def test_the_engine_answers_the_same_with_kernels(monkeypatch, replay, key_value_heads, programs):
    monkeypatch.setattr(sharing, "PROGRAMS", programs)
    settings, samples = DecodeSettings(max_new_tokens=8), make_samples(3, count=3)
    checkpoint = tiny_checkpoint(6, heads=3, key_value_heads=key_value_heads)
    checkpoint.model.to(DEVICE)
    without = Engine(checkpoint, settings, replay=replay).answer(samples)
    lengths, standing, attend = set(), set(), kernels.attend_rows

    def attend_and_count(query, out, each, *others):
        lengths.add(each)
        standing.add(others[-1])
        attend(query, out, each, *others)

    monkeypatch.setattr(kernels, "attend_rows", attend_and_count)
    have_kernels(monkeypatch)
    made = Engine(checkpoint, settings, Limits(rows=3), replay=replay).answer(samples)
    for before, after in zip(chain(*without), chain(*made), strict=True):
        assert after.token_ids == before.token_ids
        for one, other in zip(before.targets, after.targets, strict=True):
            assert (one.mask ^ other.mask).sum() <= 0.01 * one.mask.size  # a last digit of a logit
    assert {1, 5} < lengths  # next words, the rest of groups, and questions
    assert (max(standing) > 1) == (programs == 1)


@pytest.mark.slow
def test_with_kernels_rows_that_make_room_go_on_where_they_were(monkeypatch):
    settings, chance = DecodeSettings(max_new_tokens=8), random.Random(1)
    # short: each step takes the interpreter a second
    samples = [Sample(each.image, ("the cat", "a box")) for each in make_samples(5, count=3)]
    checkpoint = tiny_checkpoint(6, heads=3, key_value_heads=3)
    checkpoint.model.to(DEVICE)
    without = said(Engine(checkpoint, settings), samples)
    have_kernels(monkeypatch)
    trouble = Trouble(Engine(checkpoint, settings, Limits(rows=3), replay=True), samples, chance)
    trouble.run()
    assert trouble.happened["evict"]
    there = [(job, own) for job, own in zip(trouble.jobs, without, strict=True) if all_there(job)]
    assert len(there) > 1
    for job, own in there:
        assert_same([[facts(row.answer) for row in job.rows]], [own])


def all_there(job):
    return all(row.answer for row in job.rows)


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pixellm import kernels

tensors = {"query", "out", "prefix_keys", "prefix_values", "bias", "keys", "values"}
for kind, size, width, generation, together, queries, warps in (
    ("bf16", 2, 128, 90, 1, kernels.MOST, kernels.WARPS),
    ("fp32", 4, 32, 80, 1, kernels.MOST, kernels.WARPS),
    ("bf16", 2, 128, 80, 4, kernels.FEWEST, kernels.WARPS_TOGETHER),
):
    constants = {"GROUPS": 1, "WIDTH": width, "QUERIES": queries}
    constants |= {"TOGETHER": together, "ORDERED": together > 1}
    constants["SLOTS"] = kernels.slots_at_once(width, size)
    types = dict.fromkeys(kernels._attend.arg_names, "i32") | {"scaling": "fp32"}
    types |= dict.fromkeys(tensors, f"*{kind}") | dict.fromkeys(constants, "constexpr")
    types |= dict.fromkeys(("owners", "places", "pictures", "order"), "*i64")
    made = compile(
        ASTSource(fn=kernels._attend, signature=types, constexprs=constants),
        target=GPUTarget("cuda", generation, 32),
        options={"num_stages": kernels.STAGES, "num_warps": warps},
    )
    print(made.metadata.shared)
"""
"""Attention for the GPUs of two generations, without any: what it holds of memory next to them."""
SMALLEST = 99 * 1024
"""What a program may take of it on a GPU for desktops (compute capability 8.6 and 8.9)."""


@pytest.mark.slow
def test_attention_compiles_for_gpus_and_fits_into_small_ones(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": f"{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    held = list(map(int, done.stdout.split()))
    assert len(held) == 3
    assert max(held) < SMALLEST


@pytest.fixture
def choice(monkeypatch):
    """What is known of devices, as if nothing had been tried yet."""
    monkeypatch.setattr("pixellm.kernel_choice._try_them", lambda *_: None)
    for known in (_tell, why_no_kernels):
        known.cache_clear()
    yield monkeypatch
    for known in (_tell, why_no_kernels):
        known.cache_clear()


def test_kernels_are_for_gpus_and_for_heads_that_tensor_cores_take(choice):
    gpu = torch.device("cuda")
    assert [width for width in (8, 12, 16, 48, 128) if kernels_fit(gpu, width)] == [16, 128]
    assert not kernels_fit(torch.device("cpu"), 128)


def test_where_triton_compiles_nothing_it_is_said_once_and_torch_does_it(choice, caplog):
    def fail(*_):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")

    choice.setattr("pixellm.kernel_choice._try_them", fail)
    assert [kernels_fit(torch.device("cuda"), width) for width in (32, 128, 128)] == [False] * 3
    (told,) = caplog.messages
    assert "Failed to find C compiler" in told
    assert "takes a C compiler" in told


def test_memory_that_is_wanting_for_a_moment_does_not_keep_a_gpu_without_kernels(choice):
    gpu = torch.device("cuda")
    for error in (RuntimeError("Triton Error [CUDA]: out of memory"), MemoryError()):
        with choice.context() as wanting:
            wanting.setattr("pixellm.kernel_choice._try_them", Mock(side_effect=error))
            assert not kernels_fit(gpu, 128)
            with pytest.raises(type(error)):
                why_no_kernels(gpu, 128, torch.float32)
    assert kernels_fit(gpu, 128)


def test_a_compiler_that_can_not_be_started_for_want_of_memory_is_none(choice, caplog):
    error = OSError(12, "Cannot allocate memory")
    choice.setattr("pixellm.kernel_choice._try_them", Mock(side_effect=error))
    assert not kernels_fit(torch.device("cuda"), 128)
    assert "Cannot allocate memory" in caplog.text


def test_what_is_tried_is_what_runs_later(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    for width, dtype in ((16, torch.float32), (128, torch.bfloat16)):
        _try_them(torch.device("cpu"), width, dtype)
    monkeypatch.setattr(kernels, "attend_rows", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _try_them(torch.device("cpu"), 16, torch.float32)


def test_where_there_is_no_triton_torch_does_it(choice):
    choice.setattr("pixellm.kernel_choice.find_spec", lambda _: None)
    assert not kernels_fit(torch.device("cuda"), 128)
