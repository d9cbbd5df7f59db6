"""The benchmark itself: its contestants say the same, and its checks can fail."""

import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch

from pixellm.answers import Answer, Target
from pixellm.cutting import cut_masks
from pixellm.engine.engine import Engine
from pixellm.run_lengths import RunMask
from pixellm.tiny import tiny_checkpoint
from pixellm.tokenizer import IMAGE_TOKEN_INDEX
from tests.benchmarks import __main__ as program
from tests.benchmarks import engine, flops, inputs, masks, operations
from tests.benchmarks.agreement import compare
from tests.benchmarks.baselines import (
    Said,
    answer_cached,
    answer_encoded_once,
    answer_officially,
)
from tests.benchmarks.engine import Entry, Round, make_table, typical_start
from tests.benchmarks.options import Options
from tests.benchmarks.padded import Padded, share_weights
from tests.benchmarks.report import Table, look_around, write_results
from tests.benchmarks.timing import Contestant, race, significant, spread, times_slower

BASELINES = {
    "official": answer_officially,
    "encoded once": answer_encoded_once,
    "cached": answer_cached,
    "padded": lambda speaker, samples: Padded(speaker, batch=3).answer(samples),
}


@pytest.fixture(scope="module", params=["own words", "scripted"])
def asked(request):
    """A workload, some samples of it with several questions, and what the engine says to them."""
    make = inputs.toy if request.param == "own words" else inputs.toy_scripted
    workload = make(16)
    samples = [replace(each, questions=each.questions[:2]) for each in workload.rounds[4][:2]]
    return workload.speaker, samples, ours(workload.speaker, samples)


def ours(speaker, samples):
    predict = None if speaker.speech.scripts is None else speaker.speech
    answering = Engine(speaker.checkpoint, speaker.settings, predict=predict)
    contestant = Contestant("ours", 1, lambda: answering.answer(samples))
    contestant.take_turn()
    return engine.said_of(contestant)


# ---- contestants ----


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_says_what_the_engine_says(asked, name):
    speaker, samples, said = asked
    agreement = compare(said, BASELINES[name](speaker, samples))
    assert agreement.holds, str(agreement)
    assert agreement.answers == 4
    assert agreement.masks >= 3
    assert len({each.ids for each in said}) > 1
    assert any(0 < each.masks.mean() < 1 for each in said if len(each.masks))


def test_images_of_the_toy_have_padding_that_must_not_be_seen(asked):
    speaker, samples, said = asked
    for image in (sample.image for sample in samples):
        seen = speaker.model.encode_images(image.pixels[None], [image.resized])
        assert 0 < seen.token_valid.mean() < 1
    assert {each.masks.shape[1:] for each in said if len(each.masks)} <= {(30, 52), (52, 30)}


def test_a_batch_of_generate_shares_the_weights_and_copies_none():
    model = tiny_checkpoint(0).model
    llama = share_weights(model)
    pairs = zip(llama.model.parameters(), model.language.model.parameters(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert llama.lm_head.weight is model.language.lm_head.weight


# ---- checks ----


def said_with(masks, ids=(5, 2)):
    return [Said(ids, np.array(masks, dtype=bool))]


def test_a_baseline_whose_masks_lie_elsewhere_is_found_out(asked):
    speaker, samples, said = asked
    moved = [
        Said(each.ids, np.roll(each.masks, 2, axis=2)) for each in answer_cached(speaker, samples)
    ]
    assert not compare(said, moved).holds


def test_a_baseline_that_says_other_words_is_found_out(asked):
    speaker, samples, said = asked
    first, *rest = answer_cached(speaker, samples)
    agreement = compare(said, [Said((7, *first.ids), first.masks), *rest])
    assert not agreement.holds
    assert agreement.other_ids == 1
    assert "FAILED" in str(agreement)


def test_one_wrong_mask_among_many_large_ones_is_found_out():
    right = np.ones((50, 100, 100), dtype=bool)
    right[0, 10:, :] = False
    wrong = right.copy()
    wrong[0, 10, :9] = True
    agreement = compare(said_with(right), said_with(wrong))
    assert agreement.iou > 0.999
    assert agreement.strays == (9,)
    assert not agreement.holds


def test_a_pixel_on_the_edge_may_differ_and_nothing_compared_is_no_agreement():
    right = np.ones((1, 100, 100), dtype=bool)
    nearly = right.copy()
    nearly[0, 0, 0] = False
    agreement = compare(said_with(right), said_with(nearly))
    assert agreement.holds
    assert f"{agreement}".startswith("same ids, ")
    assert f"{compare(said_with(right), said_with(nearly), given=True)}".startswith("given ids, ")
    for nothing in (np.zeros((0, 4, 4)), np.zeros((3, 4, 4))):
        assert not compare(said_with(nothing), said_with(nothing)).holds


def test_a_failed_check_stands_in_the_table_and_ends_the_run_with_1(capsys, monkeypatch):
    right, wrong = said_with(np.ones((1, 8, 8))), said_with(np.zeros((1, 8, 8)))
    own, other = turned("ours", 1, [1.0], []), turned("broken", 1, [2.0], wrong)
    own.result = [(answer_of(right[0]),)]
    table = make_table("x", [Round(1, own, [Entry(other, own, 0)])])
    assert len(table.failures) == 1
    assert table.failures[0].startswith("broken")
    monkeypatch.setitem(program.PARTS, "broken", lambda _: iter([table]))
    assert program.main(["broken"]) == 1
    assert "FAILED: broken" in capsys.readouterr().out


def test_masks_that_are_encoded_otherwise_are_found_out():
    kinds, frame = masks.draw_masks(2)
    low = kinds["medium"][:3]
    plain = masks.encode_plainly(low, frame)
    assert masks.disagreements(plain, masks.encode_runs(low, frame)) == []
    assert masks.disagreements(plain, masks.encode_all(low, frame)) == []
    off = masks.encode_runs(torch.cat([low[:2], low[2:] - 3]), frame)
    assert masks.disagreements(plain, off) == [2]
    assert masks.disagreements(plain, [replace(plain[0], score=0.1), *plain[1:]]) == [0]


# ---- times and tables ----


def answer_of(said):
    """The engine's form of an answer, as far as the benchmark reads it."""
    nothing = dict.fromkeys(field.name for field in fields(Target))
    runs = [RunMask.from_pixels(mask) for mask in said.masks]
    targets = tuple(Target(**nothing | {"index": at, "runs": own}) for at, own in enumerate(runs))
    return Answer("", said.ids, targets, malformed=False, truncated=False)


def turned(name, work, seconds, result):
    """A contestant that has had its turns."""
    contestant = Contestant(name, work, lambda: result, list(seconds))
    contestant.result = result
    return contestant


def test_the_numbers_of_a_table_come_from_the_times():
    said = said_with(np.ones((2, 8, 8)), ids=(5, 6, 7, 2)) * 2
    own = turned("ours, 4 per image", 4, [2.0, 4.0, 1.0], None)
    own.result = [tuple(map(answer_of, said * 2))]
    other = turned("cached, 4 per image", 2, [10.0, 4.0, 3.0], said)
    table = make_table("x", [Round(4, own, [Entry(other, own, 0)])])
    ours_row, other_row = table.rows
    # ours: 0.5, 1, 0.25 s; theirs: 5, 2, 1.5 s a question
    head = ["4", "ours", "4", "4.0", "0.500 (0.250–1.00)", "2.00 (1.00–4.00)", "1", "–"]
    assert ours_row == head
    assert other_row[1:7] == [
        "cached", "2", "4.0", "2.00 (1.50–5.00)", "0.500 (0.200–0.667)", "6.00 (2.00–10.0)",
    ]  # fmt: skip
    assert table.raw == {own.name: own.seconds, other.name: other.seconds}
    assert not table.failures


def test_contestants_take_turns_and_another_one_begins_each_time():
    turns = []
    racing = [Contestant(name, 1, lambda name=name: turns.append(name)) for name in "abc"]
    race(racing, 3)
    assert "".join(turns) == "abcbcacab"
    assert all(len(each.seconds) == 3 for each in racing)
    assert len(times_slower(racing[0], racing[1])) == 3


def test_numbers_have_the_digits_that_count():
    assert [significant(x) for x in (0.1, 0.06104, 1.0, 12.34, 1234.5, 0)] == [
        "0.100", "0.0610", "1.00", "12.3", "1,234", "0",
    ]  # fmt: skip
    assert spread([3, 1, 2]) == "2.00 (1.00–3.00)"


def test_slow_contestants_get_samples_whose_answers_are_as_long_as_most():
    assert typical_start([10, 90, 50, 52, 48, 50], 1, 6) == 0
    assert typical_start([9, 9, 1, 1, 4, 6], 2, 1) == 2
    lengths = [50, 50, 10, 90, 40, 60, 70, 30]  # the mean is not all: the spread counts, too
    assert typical_start(lengths, 1, 2) == 6


# ---- inputs ----


def test_scripted_answers_are_as_long_as_those_of_muse():
    tokenizer = inputs.make_tokenizer()
    rng = np.random.default_rng(0)
    answers = [inputs.make_answer(tokenizer, rng) for _ in range(4000)]
    assert np.mean([len(each) for each in answers]) == pytest.approx(84, abs=1.5)
    targets = [each.count(tokenizer.seg_ids[0]) for each in answers]
    assert np.mean(targets) == pytest.approx(3.7, abs=0.1)
    assert (min(targets), max(targets)) == (1, 8)


def test_the_model_of_middle_size_reads_300_positions_before_a_question():
    tokenizer = inputs.make_tokenizer()
    config = inputs.middle_config(tokenizer)
    speaker = inputs.make_speaker(
        inputs.Checkpoint(flops.meta_model(config), tokenizer, ""), inputs.DecodeSettings()
    )
    prompt = speaker.prompt("x")
    before = prompt.index(IMAGE_TOKEN_INDEX) + config.image_tokens
    assert before == pytest.approx(300, abs=3)


def test_each_round_asks_as_much_and_scripted_ones_ask_the_same():
    def questions(workload):
        return [[q for each in own for q in each.questions] for own in workload.rounds.values()]

    workload = inputs.toy_scripted(32)
    one, four, sixteen = questions(workload)
    assert one == four == sixteen
    assert len(set(one)) == 32
    assert [len(each) for each in questions(inputs.toy(16))] == [16, 16, 16]
    assert [len(own) for own in workload.rounds.values()] == [32, 8, 2]
    with pytest.raises(ValueError, match="--questions 20"):
        inputs.toy(20)


def test_large_masks_are_real_ones_enlarged():
    kinds, frame = masks.draw_masks(2)
    areas = {
        kind: np.mean(
            [c.runs.area for c in cut_masks(low, frame.resized, frame.original, frame.side)]
        )
        for kind, low in kinds.items()
    }
    assert areas["small"] < areas["medium"] < areas["large"] / 4


# ---- operations ----


def test_operations_of_small_shapes_equal_a_count_by_hand():
    config = tiny_checkpoint(0).model.config
    model = flops.meta_model(config)
    clip, llama = config.clip, config.llama
    wide, inner, hidden = clip["hidden_size"], clip["intermediate_size"], llama["hidden_size"]
    costs = flops.count_pixellm(model, prefix=20, question=5)

    tokens, layers = config.grid**2 + 1, clip["num_hidden_layers"] - 1  # up to feature -2
    patches = 2 * config.grid**2 * wide * 3 * config.patch**2
    layer = 2 * tokens * (4 * wide**2 + 2 * wide * inner) + 4 * tokens**2 * wide
    assert costs.vision == patches + layers * layer

    each = 2 * (wide * 2 * hidden + 2 * hidden * hidden)
    assert costs.image_projector == config.image_tokens * each
    assert costs.mask_projector == config.scales * config.grid**2 * each

    def reading(past, new):
        linear = 2 * new * (4 * hidden**2 + 3 * hidden * llama["intermediate_size"])
        return llama["num_hidden_layers"] * (linear + 4 * new * (past + new) * hidden)

    head = 2 * hidden * llama["vocab_size"]
    assert costs.prefix == reading(0, 20)
    assert costs.question == reading(20, 5) + head
    assert costs.first_id == reading(25, 1) + head
    # three ids, one after the other
    assert costs.decode(3) == sum(reading(25 + at, 1) + head for at in range(3))
    group, width = config.group_size, config.decoder.width
    assert costs.codebook == 2 * group * (hidden * hidden + hidden * width)


def test_what_instructions_share_is_paid_for_once():
    costs = flops.Costs(*[float(2**at) for at in range(10)])
    sam = flops.SamCosts(image=1000.0, target=10.0)
    one, four = (flops.cost_of_pixellm(costs, 6, n) for n in (1, 4))
    shared = costs.vision + costs.image_projector + costs.mask_projector + costs.maps + costs.prefix
    assert one.total - four.total == pytest.approx(0.75 * shared)
    other = flops.cost_with_sam(costs, sam, 6, 4)
    assert other.masks == pytest.approx(250 + 3.7 * (costs.codebook / 6 + 10))
    table = flops.make_table(costs, sam, 6, "x")
    assert len(table.rows) == 6
    assert table.raw["PixelLM, 4 per image"] == [*asdict(four).values(), four.total]


def test_operations_are_set_beside_each_other_and_beside_those_of_an_image():
    ours, official = operations.Share(16, 8.0, 2e9), operations.Share(3, 9.0, 90e9)
    table = operations.make_table("x", [operations.Counted(4, ours, official, image=6e9)])
    (row,) = table.rows
    assert row == ["4", "16", "8.00", "2.00", "3", "9.00", "90.0", "45.0", "60.0"]
    assert len(row) == len(table.columns)
    assert list(table.raw.values()) == [[2e9, 90e9, 6e9]]


def test_the_official_way_is_asked_typical_ones_of_our_questions(monkeypatch):
    monkeypatch.setattr(operations, "_count", lambda _: 1.0)  # who is asked what is enough here
    workload = inputs.toy_scripted(16)
    workload = replace(workload, shares=replace(workload.shares, official=3))
    engine_ = engine.make_engine(workload)
    for instructions in workload.rounds:
        counted = operations.count_round(workload, engine_, instructions)
        questions = counted.ours.questions
        assert questions % instructions == 0
        assert counted.official.questions == 3 <= questions
        if questions == 3:
            assert counted.official.ids == counted.ours.ids
        assert counted.official.ids == pytest.approx(counted.ours.ids, rel=0.35)


def test_operations_are_counted_as_the_toy_answers():
    workload = inputs.toy(16)
    engine_ = engine.make_engine(workload)
    one, four = (operations.count_round(workload, engine_, each) for each in (1, 4))
    (sample,) = workload.rounds[1][:1]
    pixels = torch.zeros(1, *sample.image.pixels.shape)
    attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.inference_mode(), attention:
        image = flops.count(lambda: engine_.model.encode_images(pixels, [sample.image.resized]))
    assert one.image == four.image == image > 0
    ours_, official = zip(
        *((e.ours.operations, e.official.operations) for e in (one, four)), strict=True
    )
    assert ours_[0] > image  # it sees each image once, and says something about it
    assert image / 4 < ours_[1] < ours_[0]
    assert min(official) > 2 * image  # the official way sees it for each word


# ---- results ----


def test_the_results_hold_the_surroundings_and_every_time(tmp_path):
    table = Table("A title", ["a", "b"], [["1", "2"]], ["a note"], {"ours": [0.5, 0.25]}, ["bad"])
    write_results(tmp_path / "new", look_around(["engine", "--toy"]), [table])
    found = json.loads((tmp_path / "new" / "benchmarks.json").read_text())
    assert found["command"] == "python -m tests.benchmarks engine --toy"
    for key in ("date", "commit", "device", "python", "torch", "transformers", "numpy"):
        assert found[key], key
    assert found["cores"] >= 1
    assert found["threads"] >= 1
    (read,) = found["tables"]
    assert read["raw"] == {"ours": [0.5, 0.25]}
    assert read["rows"] == [["1", "2"]]
    text = (tmp_path / "new" / "benchmarks.md").read_text()
    assert "## A title" in text
    assert "| 1 | 2 |" in text
    assert "**FAILED**: bad" in text
    assert found["device"] in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engine", "--toy", "--models", "huge"], "--models huge: known are own, scripted"),
        (["engine", "lines"], "there is no part 'lines': known are engine, operations, masks"),
        (["--repetitions", "0"], "0: must be a whole number from 1 on"),
        (["flops", "--output", f"{__file__}/x"], "can't be written to"),
        (["--outp", "x"], "unrecognized arguments: --outp"),
        (
            ["masks", "--models", "shipped"],
            "--models: only engine, operations, gpu and line read it",
        ),
        (["flops", "engine", "--shards", "9"], "--shards: only memory reads it"),
        (["memory", "--replicas", "1"], "--replicas: only line reads it"),
        (["line", "--questions", "16"], "--questions: only engine and operations read it"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("place", [["--output", "/some/where"], ["--output=/some/where"]])
def test_where_results_were_written_is_not_told_with_them(place):
    assert look_around([*place, "masks"]).command == "python -m tests.benchmarks masks"


def test_the_masks_part_runs_on_toys():
    (table,) = masks.run(Options(repetitions=1, toy=True))
    assert not table.failures
    assert [row[0] for row in table.rows] == ["small", "medium", "large", "many"]
    assert len(table.raw) == 12


@pytest.mark.slow
def test_everything_runs_on_toys(tmp_path, capsys):
    parts = ["engine", "masks", "flops"]  # the others have tests of their own
    given = [*parts, "--toy", "--repetitions", "1", "--output", str(tmp_path)]
    assert program.main(given) == 0
    out = capsys.readouterr().out
    assert "all checks hold" in out
    found = json.loads((tmp_path / "benchmarks.json").read_text())
    assert len(found["tables"]) == 4
    assert all(len(times) == 1 for t in found["tables"][:3] for times in t["raw"].values())
